#include "tools/prepctl/stream_flags.h"

#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "shared/base/paths.h"

int stream_flags_check(struct stream_flags *flags, struct err *err)
{
	flags->training = strcmp(flags->order, "train") == 0;
	if (!flags->training && strcmp(flags->order, "eval") != 0)
		return err_set(err, ERR_USAGE, "--order: expected train or eval, got '%s'", flags->order);
	return prepctl_exif(flags->exif, &flags->exif_apply, err);
}

int stream_flags_open(const struct stream_flags *flags, const char *dataset, const char *verb, uint32_t slots, double wait_s,
		      struct stream **out, struct err *err)
{
	struct stream_options options;
	char name[64], *socket = NULL;
	int code = paths_socket(&socket, flags->common.socket, false, err);

	*out = NULL;
	if (code != 0)
		return code;
	snprintf(name, sizeof(name), "prepctl %s", verb);
	stream_options_init(&options);
	options.socket = socket;
	options.client_name = name;
	options.dataset = dataset;
	options.split = flags->split;
	options.training = flags->training;
	options.seed = (uint64_t)flags->seed;
	options.batch_size = (uint32_t)flags->batch_size;
	options.world = (uint32_t)flags->world;
	options.rank = (uint32_t)flags->rank;
	options.image_size = (uint32_t)flags->size;
	options.exif_apply = flags->exif_apply;
	options.vocab = flags->vocab;
	options.max_len = (uint32_t)flags->max_len;
	options.slots = slots;
	options.wait_s = wait_s;
	options.cancelled = prepctl_interrupted;
	code = stream_open(out, &options, err);
	mem_free(socket);
	return code;
}
