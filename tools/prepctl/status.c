/* status.c - status, shutdown, explain. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/json.h"
#include "shared/base/mem.h"
#include "shared/base/paths.h"
#include "shared/base/progress.h"
#include "tools/prepctl/prepctl.h"

enum { END_POLL_MS = 20 };

/* --- status --------------------------------------------------------------------------------- */

static void print_status(const Wire__StatusReply *s)
{
	const Wire__Counters *c = s->counters;
	char a[64], b[64], file[24], time[16];

	progress_format_seconds(time, s->uptime_s);
	printf("%s, pid %u, up %s, %s\n", s->program, s->pid, time, prepctl_count(a, s->workers, "worker"));
	printf("  socket      ");
	prepctl_print_bytes(&s->socket_path);
	printf("\n  cache       ");
	prepctl_print_bytes(&s->cache_path);
	printf("\n              %s, %s used of a file of %s", prepctl_count(a, s->cache_records, "record"),
	       prepctl_bytes(b, s->cache_used_bytes), prepctl_bytes(file, s->cache_file_bytes));
	printf(s->cache_max_bytes > 0 ? ", limit %s\n" : "\n", prepctl_bytes(a, s->cache_max_bytes));
	printf("  data sets   %llu\n", (unsigned long long)s->datasets);
	printf("  pictures    decoded %llu, hits %llu, misses %llu, shared while in the making %llu, made again %llu, failed %llu\n",
	       (unsigned long long)c->decoded, (unsigned long long)c->hits, (unsigned long long)c->misses,
	       (unsigned long long)c->joins, (unsigned long long)c->remade, (unsigned long long)c->failures);
	printf("  captions    tokenized %llu, hits %llu, misses %llu\n", (unsigned long long)c->tokenized,
	       (unsigned long long)c->caption_hits, (unsigned long long)c->caption_misses);
	printf("  features    hits %llu, misses %llu, kept %llu\n", (unsigned long long)c->feature_hits, (unsigned long long)c->feature_misses,
	       (unsigned long long)c->features_kept);
	printf("  batches     %llu (%s)\n", (unsigned long long)c->batches, prepctl_bytes(b, c->batch_bytes));
	printf("  clients     %zu\n", s->n_clients);
	for (size_t i = 0; i < s->n_clients; i++) {
		const Wire__ClientStatus *client = s->clients[i];

		progress_format_seconds(time, client->connected_s);
		printf("    pid %-8u ", client->pid);
		prepctl_print_text(client->name);
		printf(": %s, %llu %s delivered, connected %s\n", client->doing[0] != '\0' ? client->doing : "idle",
		       (unsigned long long)client->batches, client->batches == 1 ? "batch" : "batches", time);
	}
}

static int add_field(struct buf *out, const char *name, uint64_t value, struct err *err)
{
	return buf_printf(out, err, "  \"%s\": %llu,\n", name, (unsigned long long)value);
}

static int add_text(struct buf *out, const char *before, const char *text, size_t size, const char *after, struct err *err)
{
	int code = buf_add_text(out, before, err);

	if (code == 0)
		code = json_add_string(out, text, size, err);
	return code == 0 ? buf_add_text(out, after, err) : code;
}

static int add_clients(struct buf *out, const Wire__StatusReply *s, struct err *err)
{
	int code = buf_add_text(out, "  \"clients\": [", err);

	for (size_t i = 0; i < s->n_clients && code == 0; i++) {
		const Wire__ClientStatus *c = s->clients[i];

		code = buf_printf(out, err, "%s\n    {\"pid\": %u, \"batches\": %llu, \"connected_s\": %.3f, ", i > 0 ? "," : "", c->pid,
				  (unsigned long long)c->batches, c->connected_s);
		if (code == 0)
			code = add_text(out, "\"name\": ", c->name, strlen(c->name), ", ", err);
		if (code == 0)
			code = add_text(out, "\"doing\": ", c->doing, strlen(c->doing), "}", err);
	}
	return code == 0 ? buf_add_text(out, s->n_clients > 0 ? "\n  ]\n}\n" : "]\n}\n", err) : code;
}

static int print_json(const Wire__StatusReply *s, struct err *err)
{
	const Wire__Counters *c = s->counters;
	const struct {
		const char *name;
		uint64_t value;
	} fields[] = {
		{ "pid", s->pid }, { "workers", s->workers }, { "datasets", s->datasets },
		{ "decoded", c->decoded }, { "hits", c->hits }, { "misses", c->misses }, { "joins", c->joins },
		{ "remade", c->remade }, { "failures", c->failures }, { "source_bytes", c->source_bytes },
		{ "tokenized", c->tokenized }, { "caption_hits", c->caption_hits }, { "caption_misses", c->caption_misses },
		{ "feature_hits", c->feature_hits }, { "feature_misses", c->feature_misses }, { "features_kept", c->features_kept },
		{ "batches", c->batches }, { "batch_bytes", c->batch_bytes },
		{ "cache_records", s->cache_records }, { "cache_file_bytes", s->cache_file_bytes },
		{ "cache_used_bytes", s->cache_used_bytes }, { "cache_max_bytes", s->cache_max_bytes },
	};
	struct buf out = BUF_INIT;
	int code = add_text(&out, "{\n  \"program\": ", s->program, strlen(s->program), ",\n", err);

	if (code == 0)
		code = add_text(&out, "  \"socket\": ", (const char *)s->socket_path.data, s->socket_path.len, ",\n", err);
	if (code == 0)
		code = add_text(&out, "  \"cache\": ", (const char *)s->cache_path.data, s->cache_path.len, ",\n", err);
	if (code == 0)
		code = buf_printf(&out, err, "  \"uptime_s\": %.3f,\n", s->uptime_s);
	for (size_t i = 0; i < ARRAY_LEN(fields) && code == 0; i++)
		code = add_field(&out, fields[i].name, fields[i].value, err);
	if (code == 0)
		code = add_clients(&out, s, err);
	if (code == 0)
		fwrite(out.data, 1, out.size, stdout);
	buf_free(&out);
	return code;
}

int prepctl_status(int argc, char *const argv[], struct err *err)
{
	struct prepctl_common common = { 0 };
	bool json = false;
	const struct args_option table[] = {
		{ .name = "json", .kind = ARGS_FLAG, .value = &json, .help = "Print one JSON object." },
		PREPCTL_OPTIONS(&common),
	};
	const struct args_spec spec = {
		.usage = "prepctl status [--json]",
		.description = "Says what the daemon has done since it started: pictures decoded and found, its cache, its clients.",
		.options = table, .option_count = (int)ARRAY_LEN(table),
	};
	Wire__Status status = WIRE__STATUS__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	struct args_result result;
	Wire__Reply *reply;
	struct conn conn;
	int code = prepctl_parse(&spec, argc, argv, &result, err);

	if (code != 0 || result.help)
		return code;
	request.id = 1;
	request.verb_case = WIRE__REQUEST__VERB_STATUS;
	request.status = &status;
	code = prepctl_call(&conn, &common, "status", &request, WIRE__REPLY__BODY_STATUS, &reply, err);
	if (code == 0 && reply->status->counters == NULL)
		code = err_set(err, ERR_PROTOCOL, "preprocessd sent a status without counters");
	else if (code == 0 && json)
		code = print_json(reply->status, err);
	else if (code == 0)
		print_status(reply->status);
	conn_free(&conn);
	return code;
}

/* --- shutdown ---------------------------------------------------------------------------------- */

/* Its cache is closed, and may be copied, only when it has ended. */
static int wait_for_end(const char *socket, struct err *err)
{
	while (conn_daemon_ends(socket)) {
		if (prepctl_interrupted(NULL))
			return err_set(err, ERR_CANCELLED, "not waited for: preprocessd is ending, and may still be writing to its cache");
		nanosleep(&(struct timespec){ .tv_nsec = END_POLL_MS * 1000000L }, NULL);
	}
	return 0;
}

int prepctl_shutdown(int argc, char *const argv[], struct err *err)
{
	struct prepctl_common common = { 0 };
	const struct args_option table[] = { PREPCTL_OPTIONS(&common) };
	const struct args_spec spec = {
		.usage = "prepctl shutdown",
		.description = "Lets the daemon finish what clients wait for, save everything, and end. Returns when it has closed its cache.",
		.options = table, .option_count = (int)ARRAY_LEN(table),
	};
	Wire__Shutdown shutdown = WIRE__SHUTDOWN__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	struct args_result result;
	Wire__Reply *reply;
	char *socket = NULL;
	struct conn conn;
	int code = prepctl_parse(&spec, argc, argv, &result, err);

	if (code != 0 || result.help || (code = paths_socket(&socket, common.socket, false, err)) != 0)
		return code;
	request.id = 1;
	request.verb_case = WIRE__REQUEST__VERB_SHUTDOWN;
	request.shutdown = &shutdown;
	code = prepctl_call(&conn, &common, "shutdown", &request, WIRE__REPLY__BODY_DONE, &reply, err);
	/* It closes this connection when it has done what others wait for. */
	if (code == 0 && (code = conn_receive(&conn, -1, &reply, err)) == ERR_UNAVAILABLE && (code = wait_for_end(socket, err)) == 0)
		printf("preprocessd has ended\n");
	conn_free(&conn);
	mem_free(socket);
	return code;
}

/* --- explain -------------------------------------------------------------------------------------- */

static void print_hex(const char *what, ProtobufCBinaryData bytes)
{
	printf("  %-12s", what);
	for (size_t i = 0; i < bytes.len; i++)
		printf("%02x", bytes.data[i]);
	printf("\n");
}

static bool has_field(const char *settings, const char *field, size_t bytes)
{
	for (const char *at = settings;; at++) {
		size_t length = strcspn(at, ";");

		if (length == bytes && memcmp(at, field, bytes) == 0)
			return true;
		at += length;
		if (*at == '\0')
			return false;
	}
}

/* A line for each record of the same content: what is not as it was asked for, "size=112, exif=apply". */
static void print_others(const Wire__ExplainReply *e)
{
	for (size_t i = 0; i < e->n_others; i++) {
		const char *between = "";

		printf("  %-12s", i == 0 ? "there with" : "");
		for (const char *at = e->others[i];; at++) {
			size_t length = strcspn(at, ";");

			if (!has_field(e->settings, at, length)) {
				printf("%s%.*s", between, (int)length, at);
				between = ", ";
			}
			at += length;
			if (*at == '\0')
				break;
		}
		printf("\n");
	}
	if (!e->found && e->failure[0] == '\0' && e->n_others == 0)
		printf("  %-12s%s\n", "there with", "no settings at all: this content is new here");
}

static int explain(struct prepctl_common *common, const char *path, uint32_t size, bool exif_apply, struct err *err)
{
	Wire__ExplainPicture explain = WIRE__EXPLAIN_PICTURE__INIT;
	Wire__Transform transform = WIRE__TRANSFORM__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	Wire__Reply *reply;
	struct conn conn;

	transform.size = size;
	transform.exif_apply = exif_apply;
	explain.path = wire_string(path);
	explain.transform = &transform;
	request.id = 1;
	request.verb_case = WIRE__REQUEST__VERB_EXPLAIN_PICTURE;
	request.explain_picture = &explain;
	int code = prepctl_call(&conn, common, "explain", &request, WIRE__REPLY__BODY_EXPLAINED, &reply, err);
	if (code == 0) {
		const Wire__ExplainReply *e = reply->explained;

		prepctl_print_text(path);
		printf(": %s\n", e->found ? "in the cache" : e->failure[0] != '\0' ? "cannot be prepared" : "not in the cache");
		print_hex("content", e->content);
		print_hex("transform", e->fingerprint);
		printf("  %-12s%s\n", "settings", e->settings);
		print_others(e);
		for (size_t i = 0; i < e->n_features; i++)
			print_hex(i == 0 ? "features" : "", e->features[i]);
		if (e->failure[0] != '\0') {
			printf("  %-12s", "reason");
			prepctl_print_text(e->failure);
			printf("\n");
		}
	}
	conn_free(&conn);
	return code;
}

int prepctl_explain(int argc, char *const argv[], struct err *err)
{
	struct prepctl_common common = { 0 };
	int64_t size = 224;
	const char *exif = "ignore";
	const struct args_option table[] = {
		{ .name = "size", .kind = ARGS_INT, .value = &size, .metavar = "N", .min = 1, .max = 2048,
		  .help = "Picture size in pixels. Default 224." },
		{ .name = "exif", .kind = ARGS_TEXT, .value = &exif, .metavar = "ignore|apply", .help = "EXIF policy. Default ignore." },
		PREPCTL_OPTIONS(&common),
	};
	const struct args_spec spec = {
		.usage = "prepctl explain PICTURE [--size N] [--exif ignore|apply]",
		.description = "Says under which key a picture is kept (the hash of its bytes, and every setting that decides the pixels),\n"
			       "and whether it is there; if not, which of these settings differ where the same picture is there. A line of features\n"
			       "for each encoder and settings with which training runs (--freeze) have kept features of it.",
		.options = table, .option_count = (int)ARRAY_LEN(table), .operands_min = 1, .operands_max = 1,
	};
	struct args_result result;
	bool exif_apply = false;
	char *folder, *path = NULL;
	int code = prepctl_parse(&spec, argc, argv, &result, err);

	if (code != 0 || result.help)
		return code;
	if ((code = prepctl_exif(exif, &exif_apply, err)) != 0 ||
	    (code = prepctl_check_path("the picture", result.operands[0], err)) != 0)
		return code;
	folder = getcwd(NULL, 0);
	code = folder == NULL ? err_errno(err, errno, "the current folder") : fs_join(&path, folder, result.operands[0], err);
	if (code == 0)
		code = explain(&common, path, (uint32_t)size, exif_apply, err);
	mem_free(path);
	mem_free(folder);
	return code;
}
