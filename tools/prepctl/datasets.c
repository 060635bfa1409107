/* datasets.c - datasets, show, failures, samples, rm. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "tools/prepctl/prepctl.h"

enum { SHOWN_BYTES_MAX = 400 }; /* of the caption that show has as an example */

static int parse_named(const char *verb, const char *description, struct prepctl_common *common, int operands, int argc,
		       char *const argv[], struct args_result *result, struct err *err)
{
	const struct args_option table[] = { PREPCTL_OPTIONS(common) };
	char usage[64];
	const struct args_spec spec = {
		.usage = usage, .description = description, .options = table, .option_count = (int)ARRAY_LEN(table),
		.operands_min = operands, .operands_max = operands,
	};

	snprintf(usage, sizeof(usage), "prepctl %s%s", verb, operands > 0 ? " NAME" : "");
	return prepctl_parse(&spec, argc, argv, result, err);
}

static void format_time(char *out, size_t bytes, int64_t unix_s)
{
	time_t at = (time_t)unix_s;
	struct tm parts;

	if (localtime_r(&at, &parts) == NULL || strftime(out, bytes, "%Y-%m-%d %H:%M:%S", &parts) == 0)
		out[0] = '\0';
}

int prepctl_datasets(int argc, char *const argv[], struct err *err)
{
	Wire__ListDatasets list = WIRE__LIST_DATASETS__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	struct prepctl_common common = { 0 };
	struct args_result result;
	Wire__Reply *reply;
	struct conn conn;
	int code = parse_named("datasets", "Lists the data sets, by name.", &common, 0, argc, argv, &result, err);

	if (code != 0 || result.help)
		return code;
	request.id = 1;
	request.verb_case = WIRE__REQUEST__VERB_LIST_DATASETS;
	request.list_datasets = &list;
	code = prepctl_call(&conn, &common, "datasets", &request, WIRE__REPLY__BODY_DATASETS, &reply, err);
	if (code == 0 && reply->datasets->n_datasets == 0)
		printf("no data sets yet; prepctl add NAME registers one\n");
	for (size_t i = 0; code == 0 && i < reply->datasets->n_datasets; i++) {
		const Wire__Dataset *d = reply->datasets->datasets[i];
		char version[13], added[32];

		if (i == 0)
			printf("%-20s %10s %10s %8s  %-12s  %-19s  %s\n", "NAME", "PICTURES", "CAPTIONS", "FAILURES", "VERSION",
			       "ADDED", "VOCABULARY");
		if (d->version.len == 0) {
			printf("%-20s damaged: add it again, or remove it (prepctl rm)\n", d->name);
			continue;
		}
		format_time(added, sizeof(added), d->added_unix_s);
		printf("%-20s %10llu %10llu %8llu  %-12s  %-19s  %s\n", d->name, (unsigned long long)d->pictures,
		       (unsigned long long)d->captions, (unsigned long long)d->failures, prepctl_short_hash(version, d->version),
		       added, d->vocab_name[0] != '\0' ? d->vocab_name : "none");
	}
	conn_free(&conn);
	return code;
}

static void print_paths(const char *what, const ProtobufCBinaryData *paths, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		printf("  %-16s ", what);
		prepctl_print_bytes(&paths[i]);
		printf("\n");
	}
}

static void print_label(size_t number, const ProtobufCBinaryData *name, const char *pictures)
{
	printf("  label %-4zu       ", number);
	prepctl_print_bytes(name);
	printf(" (%s)\n", pictures);
}

/* As much of a caption as shows what it is: it may have a million bytes. */
static void print_start(const ProtobufCBinaryData *caption)
{
	ProtobufCBinaryData start = *caption;

	if (start.len > SHOWN_BYTES_MAX) {
		for (start.len = SHOWN_BYTES_MAX; start.len > 0 && (start.data[start.len] & 0xC0) == 0x80;)
			start.len--; /* not in the middle of a character */
	}
	prepctl_print_bytes(&start);
	if (start.len < caption->len)
		printf(" ... (%zu bytes)", caption->len);
}

static void print_show(const Wire__DatasetDetail *detail)
{
	const Wire__Dataset *d = detail->dataset;
	char a[64], b[64], added[32];

	format_time(added, sizeof(added), d->added_unix_s);
	printf("%s: %s, %s\n", d->name, prepctl_count(a, d->pictures, "picture"), prepctl_count(b, d->captions, "caption"));
	printf("  version          ");
	for (size_t i = 0; i < d->version.len; i++)
		printf("%02x", d->version.data[i]);
	printf("\n  added            %s\n", added);
	printf("  format           %s%s", d->format, detail->columns[0] != '\0' ? ", columns " : "");
	prepctl_print_text(detail->columns);
	printf("\n");
	print_paths("images", detail->images, detail->n_images);
	print_paths("captions", detail->captions, detail->n_captions);
	if (detail->split_ratio[0] != '\0')
		printf("  split by         %s, seed %llu\n", detail->split_ratio, (unsigned long long)detail->split_seed);
	if (detail->limit > 0)
		printf("  limit            %s, seed %llu\n", prepctl_count(a, detail->limit, "picture"), (unsigned long long)detail->limit_seed);
	printf("  on bad           %s\n", detail->skip_bad ? "skip" : "fail");
	if (detail->transform != NULL)
		printf("  prepared at      %u px, EXIF orientation %s\n", detail->transform->size,
		       detail->transform->exif_apply ? "applied" : "ignored");
	prepctl_print_detail(detail);
	for (size_t i = 0; i < detail->n_labels && i < detail->n_label_pictures; i++)
		print_label(i, &detail->labels[i], prepctl_count(a, detail->label_pictures[i], "picture"));
	printf("  first picture    ");
	prepctl_print_bytes(&detail->sample_source);
	printf("\n  first caption    ");
	print_start(&detail->sample_caption);
	printf("\n");
}

int prepctl_show(int argc, char *const argv[], struct err *err)
{
	Wire__ShowDataset show = WIRE__SHOW_DATASET__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	struct prepctl_common common = { 0 };
	struct args_result result;
	Wire__Reply *reply;
	struct conn conn;
	int code = parse_named("show", "Says everything about one data set.\n\n" PREPCTL_ESCAPES, &common, 1, argc, argv, &result, err);

	if (code != 0 || result.help)
		return code;
	show.name = (char *)(uintptr_t)result.operands[0];
	request.id = 1;
	request.verb_case = WIRE__REQUEST__VERB_SHOW_DATASET;
	request.show_dataset = &show;
	code = prepctl_call(&conn, &common, "show", &request, WIRE__REPLY__BODY_DETAIL, &reply, err);
	if (code == 0)
		print_show(reply->detail);
	conn_free(&conn);
	return code;
}

int prepctl_failures(int argc, char *const argv[], struct err *err)
{
	Wire__ListFailures list = WIRE__LIST_FAILURES__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	struct prepctl_common common = { 0 };
	struct args_result result;
	Wire__Reply *reply;
	struct conn conn;
	int code = parse_named("failures", "Lists what was left out of a data set, and why: one a line, with a tab between.\n\n" PREPCTL_ESCAPES,
			       &common, 1, argc, argv, &result, err);

	if (code != 0 || result.help)
		return code;
	list.name = (char *)(uintptr_t)result.operands[0];
	request.verb_case = WIRE__REQUEST__VERB_LIST_FAILURES;
	request.list_failures = &list;
	code = prepctl_connect(&conn, &common, "failures", err);
	do {
		request.id++;
		if (code == 0)
			code = conn_call(&conn, &request, WIRE__REPLY__BODY_FAILURES, &reply, err);
		if (code != 0)
			break;
		for (size_t i = 0; i < reply->failures->n_failures; i++) {
			const Wire__Failure *failure = reply->failures->failures[i];

			prepctl_print_bytes(&failure->source);
			printf("\t");
			prepctl_print_text(failure->reason);
			printf("\n");
		}
		list.first += reply->failures->n_failures;
	} while (reply->failures->n_failures > 0 && list.first < reply->failures->total);
	conn_free(&conn);
	return code;
}

/* --- samples --- */

static void print_sample(const Wire__Sample *sample)
{
	printf("%llu\t%d\t%s\t", (unsigned long long)sample->id, sample->label, sample->split);
	for (size_t i = 0; i < sample->content.len; i++)
		printf("%02x", sample->content.data[i]);
	printf("\t");
	prepctl_print_bytes(&sample->source);
	printf("\t");
	prepctl_print_bytes(&sample->caption);
	printf("\n");
}

int prepctl_samples(int argc, char *const argv[], struct err *err)
{
	static uint64_t ids[ARGS_OPERANDS_MAX];
	Wire__DescribeSamples describe = WIRE__DESCRIBE_SAMPLES__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	struct prepctl_common common = { 0 };
	const struct args_option table[] = { PREPCTL_OPTIONS(&common) };
	const struct args_spec spec = {
		.usage = "prepctl samples NAME ID ...",
		.description = "Says what samples are: id, class (-1: none), split, SHA-256 of the picture's file, its path and the caption as "
			       "it was read (of a longer one the first 8,192 bytes), with tabs between. Ids are those of sample_ids in "
			       "batches and of caption in a study's predictions.csv: the caption's index in the data set.\n\n" PREPCTL_ESCAPES,
		.options = table, .option_count = (int)ARRAY_LEN(table), .operands_min = 2, .operands_max = ARGS_OPERANDS_MAX,
	};
	struct args_result result;
	Wire__Reply *reply;
	struct conn conn;
	int code = prepctl_parse(&spec, argc, argv, &result, err);

	if (code != 0 || result.help)
		return code;
	for (int i = 1; i < result.operand_count; i++) {
		int64_t id;

		if ((code = args_parse_int(result.operands[i], 0, INT64_MAX, &id, err)) != 0)
			return err_prefix(err, "sample '%s'", result.operands[i]);
		ids[i - 1] = (uint64_t)id;
	}
	describe.dataset = (char *)(uintptr_t)result.operands[0];
	request.verb_case = WIRE__REQUEST__VERB_DESCRIBE_SAMPLES;
	request.describe_samples = &describe;
	code = prepctl_connect(&conn, &common, "samples", err);
	for (size_t at = 0, left = (size_t)(result.operand_count - 1); code == 0 && left > 0; left -= describe.n_samples) {
		describe.n_samples = left < WIRE_SAMPLES_PER_REQUEST ? left : WIRE_SAMPLES_PER_REQUEST;
		describe.samples = ids + at;
		at += describe.n_samples;
		request.id++;
		code = conn_call(&conn, &request, WIRE__REPLY__BODY_SAMPLES, &reply, err);
		for (size_t i = 0; code == 0 && i < reply->samples->n_samples; i++)
			print_sample(reply->samples->samples[i]);
	}
	conn_free(&conn);
	return code;
}

int prepctl_rm(int argc, char *const argv[], struct err *err)
{
	Wire__RemoveDataset remove = WIRE__REMOVE_DATASET__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	struct prepctl_common common = { 0 };
	struct args_result result;
	Wire__Reply *reply;
	struct conn conn;
	int code = parse_named("rm", "Removes a data set's name. What was prepared stays in the cache, so adding it again is quick.",
			       &common, 1, argc, argv, &result, err);

	if (code != 0 || result.help)
		return code;
	remove.name = (char *)(uintptr_t)result.operands[0];
	request.id = 1;
	request.verb_case = WIRE__REQUEST__VERB_REMOVE_DATASET;
	request.remove_dataset = &remove;
	code = prepctl_call(&conn, &common, "rm", &request, WIRE__REPLY__BODY_DONE, &reply, err);
	if (code == 0)
		printf("removed %s\n", result.operands[0]);
	conn_free(&conn);
	return code;
}
