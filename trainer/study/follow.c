/* How far a run has come, read from the last lines that it wrote. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/mem.h"
#include "trainer/study/flat.h"
#include "trainer/study/work.h"

enum { TAIL_BYTES = 16384 };

static void take_line(struct job *job, const struct flat *line)
{
	const char *split = flat_text(line, "split");
	int64_t step;

	if (split == NULL || !flat_int(line, "step", &step))
		return;
	if (strcmp(split, "train") == 0) {
		if (job->first_steps < 0)
			job->first_steps = step;
		job->steps = step + 1;
		job->has_loss |= flat_real(line, "loss", &job->loss);
	} else if (flat_real(line, "accuracy", &job->val_accuracy)) {
		job->has_val = true;
	}
}

static void find_total(const struct work *work, struct job *job, struct flat *flat)
{
	char path[RESULT_PATH_BYTES];
	struct err ignored;

	study_run_path(work->spec, work->dir, &work->runs[job->run].cell, "run.json", path);
	if (flat_read(flat, path, &ignored) != 0)
		return;
	if (!flat_int(flat, "steps_total", &job->steps_total))
		job->steps_total = 0;
	flat_free(flat);
}

void follow_job(const struct work *work, struct job *job)
{
	char path[RESULT_PATH_BYTES], text[TAIL_BYTES + 1];
	struct flat *flat = mem_zalloc(sizeof(*flat));
	ssize_t got = 0;
	int fd;

	if (flat == NULL)
		return;
	if (job->steps_total == 0)
		find_total(work, job, flat);
	study_run_path(work->spec, work->dir, &work->runs[job->run].cell, "metrics.jsonl", path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		off_t size = lseek(fd, 0, SEEK_END);

		got = pread(fd, text, TAIL_BYTES, size > TAIL_BYTES ? size - TAIL_BYTES : 0);
		close(fd);
	}
	text[got > 0 ? got : 0] = '\0';
	for (char *at = text, *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
		struct err ignored;

		/* The first line may be cut; what does not parse is passed over. */
		if (*at == '{' && flat_parse(flat, path, at, (size_t)(end - at), &ignored) == 0) {
			take_line(job, flat);
			flat_free(flat);
		}
	}
	mem_free(flat);
}
