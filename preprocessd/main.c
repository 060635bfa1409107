/* main.c - preprocessd: options, then server.h until it is told to stop. */
#include <grp.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "preprocessd/pipeline/pipeline.h"
#include "preprocessd/serve/server.h"
#include "shared/base/args.h"
#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/paths.h"
#include "shared/base/plural.h"

/* Blocks up to the first come from the heap, which gives memory back when so much of it is free. */
enum { HEAP_BLOCK_BYTES_MAX = 32 << 20, HEAP_KEPT_BYTES = 64 << 20 };

enum { CONFIG_BYTES_MAX = 1 << 16, FILE_OPTIONS_MAX = 32, PATH_BYTES = 256, STACK_BYTES_MIN = 1 << 20 };

#define BYTE_ORDER_MARK "\xEF\xBB\xBF"

struct settings {
	const char *cache, *socket, *config, *log_level, *readers, *adders;
	enum log_level level;
	int64_t reader_group, adder_group; /* SERVER_NO_GROUP: none */
	int64_t workers, max_datasets;
	uint64_t max_cache;
	bool version;
	char *from_file[FILE_OPTIONS_MAX]; /* "--name=value" of each line of --config; the rest points into them */
	int from_file_count;
};

static const char usage[] =
	"preprocessd [--cache DIR] [--socket PATH] [--workers N] [--max-cache SIZE] [--config FILE]";
static const char description[] =
	"Decodes, resizes and tokenizes each picture and caption once, keeps the result in a cache,\n"
	"and serves prepared batches to any number of experiments. Runs in the foreground:\n"
	"\n"
	"    preprocessd &\n"
	"    prepctl add flowers --format csv --images photos/ --captions captions.csv --vocab vocab.txt\n"
	"    trainer --data flowers --reg adv\n"
	"\n"
	"SIGTERM (or prepctl shutdown) finishes what clients wait for and ends it.";

static int parse(struct settings *settings, int argc, char *const argv[], struct args_result *result, struct err *err,
		 bool help)
{
	const struct args_option options[] = {
		{ .name = "cache", .kind = ARGS_TEXT, .value = &settings->cache, .metavar = "DIR",
		  .help = "Where prepared data is kept. Default: $PREPROCESSD_CACHE, else preprocessd in $XDG_CACHE_HOME or ~/.cache." },
		{ .name = "socket", .kind = ARGS_TEXT, .value = &settings->socket, .metavar = "PATH",
		  .help = "Where clients connect. Default: $PREPROCESSD_SOCKET, else preprocessd/preprocessd.sock in "
			  "$XDG_RUNTIME_DIR, else /tmp/preprocessd-UID/preprocessd.sock." },
		{ .name = "workers", .kind = ARGS_INT, .value = &settings->workers, .metavar = "N", .min = 1,
		  .max = PIPELINE_WORKERS_MAX, .help = "Threads that decode, resize, tokenize and assemble. Default: one for each core." },
		{ .name = "max-cache", .kind = ARGS_SIZE, .value = &settings->max_cache, .metavar = "SIZE",
		  .help = "How large the cache may grow, such as 50G; 0: no limit but the disk. Default: 0." },
		{ .name = "max-datasets", .kind = ARGS_INT, .value = &settings->max_datasets, .metavar = "N", .min = 1,
		  .max = SERVER_DATASETS_MAX, .help = "How many data sets may be registered, and how many vocabularies. Default: 4096." },
		{ .name = "readers", .kind = ARGS_TEXT, .value = &settings->readers, .metavar = "GROUP",
		  .help = "Members of this group may connect too, and read every data set. Default: only your own user." },
		{ .name = "adders", .kind = ARGS_TEXT, .value = &settings->adders, .metavar = "GROUP",
		  .help = "Members of this group may read, and add data sets of files that they could read themselves. They set "
			  "PREPROCESSD_USER to your name. Default: only your own user." },
		{ .name = "config", .kind = ARGS_TEXT, .value = &settings->config, .metavar = "FILE",
		  .help = "Read options from a file with a line NAME = VALUE for each; the command line has precedence." },
		{ .name = "log-level", .kind = ARGS_TEXT, .value = &settings->log_level, .metavar = "LEVEL",
		  .help = "error, warn, info or debug. Default: info." },
		{ .name = "version", .kind = ARGS_FLAG, .value = &settings->version, .help = "Print the version and end." },
	};
	const struct args_spec spec = {
		.usage = usage, .description = description, .options = options, .option_count = (int)ARRAY_LEN(options),
	};

	if (help) {
		args_print_help(&spec);
		return 0;
	}
	return args_parse(&spec, argc, argv, result, err);
}

static int level_of(const char *name, enum log_level *out, struct err *err)
{
	static const char *const names[] = { "error", "warn", "info", "debug" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(names[i], name) == 0) {
			*out = (enum log_level)i;
			return 0;
		}
	return err_set(err, ERR_USAGE, "--log-level: expected error, warn, info or debug, got '%s'", name);
}

/* By name or number. */
static int find_group(const char *option, const char *name, int64_t *out, struct err *err)
{
	char *end;

	*out = SERVER_NO_GROUP;
	if (name == NULL)
		return 0;
	/* There are no other threads yet, and it takes groups of any number of members. */
	const struct group *found = getgrnam(name);
	if (found != NULL) {
		*out = found->gr_gid;
		return 0;
	}
	unsigned long number = strtoul(name, &end, 10);
	if (name[0] < '0' || name[0] > '9' || *end != '\0' || number >= UINT32_MAX)
		return err_set(err, ERR_USAGE, "--%s: there is no group %s on this system; getent group lists them", option, name);
	*out = (int64_t)number;
	return 0;
}

/* What the table of options does not look into. */
static int resolve(struct settings *settings, struct err *err)
{
	int code = level_of(settings->log_level, &settings->level, err);

	if (code == 0 && settings->max_cache != 0 && settings->max_cache < CACHE_LIMIT_BYTES_MIN)
		code = err_set(err, ERR_USAGE, "--max-cache: expected at least %d KiB, or 0 for no limit, got %llu byte%s", CACHE_LIMIT_BYTES_MIN >> 10,
			       (unsigned long long)settings->max_cache, plural(settings->max_cache));
	if (code == 0)
		code = find_group("readers", settings->readers, &settings->reader_group, err);
	return code == 0 ? find_group("adders", settings->adders, &settings->adder_group, err) : code;
}

static char *trim(char *text)
{
	while (*text == ' ' || *text == '\t')
		text++;
	char *end = text + strlen(text);
	while (end > text && strchr(" \t\r\n", end[-1]) != NULL)
		*--end = '\0';
	return text;
}

/* One "--name=value" for each line. Format: schemas/config.md. */
static int config_line(const char *path, int number, char *line, char **out, struct err *err)
{
	static const char *const names[] = { "cache", "socket", "workers", "max-cache", "max-datasets", "readers", "adders", "log-level" };
	char *equals = strchr(line, '=');

	*out = NULL;
	line = trim(line);
	if (line[0] == '\0' || line[0] == '#')
		return 0;
	if (equals == NULL)
		return err_set(err, ERR_USAGE, "%s:%d: expected NAME = VALUE, got '%s'", path, number, line);
	*equals = '\0';
	char *name = trim(line), *value = trim(equals + 1);
	size_t known = 0;
	while (known < ARRAY_LEN(names) && strcmp(names[known], name) != 0)
		known++;
	if (known == ARRAY_LEN(names))
		return err_set(err, ERR_USAGE, "%s:%d: there is no option '%s'; known: cache, socket, workers, max-cache, max-datasets, readers, "
			       "adders, log-level", path, number, name);
	if (value[0] == '~')
		return err_set(err, ERR_USAGE, "%s:%d: %s: no shell reads this file, so a ~ stands for nothing; write the whole path", path, number,
			       value);
	size_t bytes = strlen(name) + strlen(value) + 4;
	*out = mem_alloc(bytes);
	if (*out == NULL)
		return err_nomem(err, bytes);
	snprintf(*out, bytes, "--%s=%s", name, value);
	return 0;
}

/* Takes the option of one line, if there is one. */
static int config_take(struct settings *settings, const char *path, int number, char *line, struct args_result *result, struct err *err)
{
	char *option;
	int code = config_line(path, number, line, &option, err);

	if (code != 0 || option == NULL)
		return code;
	settings->from_file[settings->from_file_count++] = option;
	if (settings->from_file_count == FILE_OPTIONS_MAX)
		return err_set(err, ERR_LIMIT, "%s: more than %d options", path, FILE_OPTIONS_MAX - 1);
	code = parse(settings, 1, &option, result, err, false);
	if (code == 0)
		code = resolve(settings, err);
	return code != 0 ? err_prefix(err, "%s:%d", path, number) : 0;
}

static int config_read(struct settings *settings, const char *path, struct args_result *result, struct err *err)
{
	struct buf text = BUF_INIT;
	char *rest, *line;
	int number = 0;
	int code = fs_read(path, CONFIG_BYTES_MAX, &text, err);

	if (code != 0)
		err_prefix(err, "--config");
	else if (text.size > 0 && memchr(text.data, '\0', text.size) != NULL)
		code = err_set(err, ERR_USAGE, "--config: %s has zero bytes, so it is no text file (save it as UTF-8)", path);
	rest = text.data;
	if (rest != NULL && strncmp(rest, BYTE_ORDER_MARK, strlen(BYTE_ORDER_MARK)) == 0)
		rest += strlen(BYTE_ORDER_MARK); /* as some editors write it */
	while (code == 0 && rest != NULL && (line = strsep(&rest, "\n")) != NULL)
		code = config_take(settings, path, ++number, line, result, err);
	buf_free(&text);
	return code;
}

/* The file's options first, the command line's after them: the last one counts. */
static int parse_all(struct settings *settings, int argc, char *argv[], struct args_result *result, struct err *err)
{
	int code = parse(settings, argc, argv, result, err, false);

	if (code != 0 || result->help || (code = resolve(settings, err)) != 0 || settings->config == NULL)
		return code;
	code = config_read(settings, settings->config, result, err);
	if (code == 0)
		code = parse(settings, argc, argv, result, err, false);
	return code == 0 ? resolve(settings, err) : code;
}

static int core_count(void)
{
	cpu_set_t set;
	int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	return count < 1 ? 1 : count > PIPELINE_WORKERS_MAX ? PIPELINE_WORKERS_MAX : count;
}

/* A socket in a folder that others cannot enter is of no use to them. */
static void warn_unreachable(const char *socket)
{
	const char *slash = strrchr(socket, '/');
	struct stat info;
	char folder[PATH_BYTES];

	if (slash == NULL || slash == socket || (size_t)(slash - socket) >= sizeof(folder))
		return;
	memcpy(folder, socket, (size_t)(slash - socket));
	folder[slash - socket] = '\0';
	if (stat(folder, &info) == 0 && (info.st_mode & (S_IXGRP | S_IXOTH)) == 0)
		log_warn("other users cannot enter %s, so --readers and --adders have no effect; choose a --socket in a folder that they can",
			 folder);
}

static int serve(const struct settings *settings, struct err *err)
{
	struct server_options options = { .max_cache_bytes = settings->max_cache, .datasets_max = (uint64_t)settings->max_datasets,
					  .readers = settings->reader_group, .adders = settings->adder_group };
	char *socket = NULL;
	int code = paths_socket(&socket, settings->socket, true, err);

	if (code == 0 && (options.readers != SERVER_NO_GROUP || options.adders != SERVER_NO_GROUP))
		warn_unreachable(socket);
	if (code == 0) {
		options.socket = socket;
		options.cache = settings->cache;
		options.workers = settings->workers > 0 ? (int)settings->workers : core_count();
		code = server_run(&options, err);
	}
	mem_free(socket);
	return code;
}

/* Pictures come and go by the thousand. With the defaults of glibc the memory of each goes back to the kernel, which
 * has to clear it page by page for the next one: a tenth of the time of a cold `prepctl add`. */
static void keep_heap(void)
{
#ifdef __GLIBC__
	(void)mallopt(M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES_MAX);
	(void)mallopt(M_TRIM_THRESHOLD, HEAP_KEPT_BYTES);
#endif
}

/* Threads get as much stack as `ulimit -s` says, which need not be enough. */
static void ensure_stacks(void)
{
	pthread_attr_t attributes;
	size_t bytes;

	if (pthread_getattr_default_np(&attributes) != 0)
		return;
	if (pthread_attr_getstacksize(&attributes, &bytes) == 0 && bytes < STACK_BYTES_MIN &&
	    pthread_attr_setstacksize(&attributes, STACK_BYTES_MIN) == 0)
		(void)pthread_setattr_default_np(&attributes); /* failing, it stays as it was */
	pthread_attr_destroy(&attributes);
}

int main(int argc, char *argv[])
{
	struct settings settings = { .log_level = "info", .max_datasets = SERVER_DATASETS_DEFAULT };
	struct args_result result;
	struct err err = { 0 };

	fs_take_standard();
	log_setup("preprocessd", LOG_INFO, 0);
	keep_heap();
	ensure_stacks();
	int code = parse_all(&settings, argc - 1, argv + 1, &result, &err);
	if (code == 0 && (result.help || settings.version)) {
		if (result.help)
			parse(&settings, 0, NULL, NULL, NULL, true);
		else
			printf("%s\n", SERVER_PROGRAM);
		if (fflush(stdout) != 0 || ferror(stdout))
			code = err_set(&err, ERR_IO, "cannot write to standard output");
	} else if (code == 0) {
		log_setup("preprocessd", settings.level, 1);
		code = serve(&settings, &err);
	}
	for (int i = 0; i < settings.from_file_count; i++)
		mem_free(settings.from_file[i]);
	if (code != 0)
		log_error("%s%s", err.message, code == ERR_USAGE ? " (preprocessd --help lists the options)" : "");
	return err_exit_code(code);
}
