/* upkeep.c - verify, gc. */
#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "shared/base/progress.h"
#include "tools/prepctl/prepctl.h"

struct display {
	struct progress bar;
	const char *verb;
	uint64_t done;
	bool shown;
};

static void show_progress(void *context, const Wire__Progress *progress)
{
	struct display *display = context;

	if (progress->total == 0)
		return;
	if (!display->shown)
		progress_begin(&display->bar, display->verb, progress->total, false);
	display->shown = true;
	display->done = progress->done < progress->total ? progress->done : progress->total;
	progress_update(&display->bar, display->done, NULL);
}

static int ask(const struct prepctl_common *common, const char *verb, const Wire__Request *request, Wire__UpkeepReply *out,
	       struct conn *conn, struct err *err)
{
	struct display display = { .verb = verb };
	Wire__Reply *reply;
	int code = prepctl_connect(conn, common, verb, err);

	if (code != 0)
		return code;
	conn->progress = show_progress;
	conn->progress_context = &display;
	code = conn_call(conn, request, WIRE__REPLY__BODY_UPKEEP, &reply, err);
	if (display.shown)
		progress_end(&display.bar, code == 0 ? display.bar.total : display.done, NULL);
	if (code == ERR_CANCELLED && !prepctl_interrupted(NULL))
		code = err_set(err, ERR_UNAVAILABLE, "preprocessd was stopped before %s was through; start it again (preprocessd &) and run the same "
			       "command", verb);
	if (code == 0)
		*out = *reply->upkeep; /* its texts live in the connection */
	return code;
}

int prepctl_verify(int argc, char *const argv[], struct err *err)
{
	struct prepctl_common common = { 0 };
	Wire__VerifyCache verify = WIRE__VERIFY_CACHE__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	bool mend = false;
	const struct args_option table[] = {
		{ .name = "mend", .kind = ARGS_FLAG, .value = &mend,
		  .help = "Remove damaged pictures, tokens and features: the next reader has them made again from their source." },
		PREPCTL_OPTIONS(&common),
	};
	const struct args_spec spec = {
		.usage = "prepctl verify [--mend]",
		.description = "Reads every record of the cache and checks it. Exit code 1 if something is damaged and stays so.\n"
			       "What is damaged is found when it is read, too, and made again from its source then; this looks ahead of that.",
		.options = table, .option_count = (int)ARRAY_LEN(table),
	};
	struct args_result result;
	Wire__UpkeepReply reply;
	struct conn conn;
	char count[64], bytes[24];
	int code = prepctl_parse(&spec, argc, argv, &result, err);

	if (code != 0 || result.help)
		return code;
	verify.mend = mend;
	request.id = 1;
	request.verb_case = WIRE__REQUEST__VERB_VERIFY_CACHE;
	request.verify_cache = &verify;
	if ((code = ask(&common, "verify", &request, &reply, &conn, err)) != 0)
		goto out;
	printf("%s, %s read in %.1f s: %llu damaged", prepctl_count(count, reply.records, "record"), prepctl_bytes(bytes, reply.bytes),
	       reply.seconds, (unsigned long long)reply.damaged);
	printf(mend && reply.damaged > 0 ? ", %llu of them removed, to be made again\n" : "\n", (unsigned long long)reply.removed);
	for (size_t i = 0; i < reply.n_records_damaged; i++)
		printf("  %s%s\n", reply.records_damaged[i]->reason, reply.records_damaged[i]->removed ? " (removed)" : "");
	if (reply.damaged > reply.n_records_damaged)
		printf("  and %llu more\n", (unsigned long long)(reply.damaged - reply.n_records_damaged));
	if (reply.damaged > reply.removed)
		code = err_set(err, ERR_CORRUPT, "%llu damaged; %s", (unsigned long long)(reply.damaged - reply.removed),
			       mend ? "add the data sets that they belong to again" : "prepctl verify --mend removes what can be made again");
out:
	conn_free(&conn);
	return code;
}

int prepctl_gc(int argc, char *const argv[], struct err *err)
{
	struct prepctl_common common = { 0 };
	Wire__CollectGarbage collect = WIRE__COLLECT_GARBAGE__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	bool dry_run = false;
	const struct args_option table[] = {
		{ .name = "dry-run", .kind = ARGS_FLAG, .value = &dry_run, .help = "Only say what would go." },
		PREPCTL_OPTIONS(&common),
	};
	const struct args_spec spec = {
		.usage = "prepctl gc [--dry-run]",
		.description = "Removes from the cache what no data set needs any more, after prepctl rm or add --replace: pictures of every size,\n"
			       "tokens, features, failures, manifests. Vocabularies stay, and so does what open streams read. The file keeps its\n"
			       "size; the space serves what comes next.",
		.options = table, .option_count = (int)ARRAY_LEN(table),
	};
	struct args_result result;
	Wire__UpkeepReply reply;
	struct conn conn;
	char count[64], removed[64], bytes[24];
	int code = prepctl_parse(&spec, argc, argv, &result, err);

	if (code != 0 || result.help)
		return code;
	collect.dry_run = dry_run;
	request.id = 1;
	request.verb_case = WIRE__REQUEST__VERB_COLLECT_GARBAGE;
	request.collect_garbage = &collect;
	if ((code = ask(&common, "gc", &request, &reply, &conn, err)) == 0)
		printf("%s of %s, %s, %s in %.1f s\n", prepctl_count(removed, reply.removed, "record"),
		       prepctl_count(count, reply.records, "record"), prepctl_bytes(bytes, reply.removed_bytes),
		       dry_run ? "would go; found" : "removed", reply.seconds);
	conn_free(&conn);
	return code;
}
