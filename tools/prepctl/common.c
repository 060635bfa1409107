#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/paths.h"
#include "tools/prepctl/prepctl.h"

enum { PIECE_BYTES = 1024 };

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
	(void)number;
	interrupted = 1;
}

bool prepctl_interrupted(void *context)
{
	(void)context;
	return interrupted != 0;
}

void prepctl_watch_interrupt(void)
{
	struct sigaction action = { .sa_handler = on_interrupt };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

int prepctl_parse(const struct args_spec *spec, int argc, char *const argv[], struct args_result *result, struct err *err)
{
	int code = args_parse(spec, argc, argv, result, err);

	if (code == 0 && result->help)
		args_print_help(spec);
	return code;
}

int prepctl_connect(struct conn *conn, const struct prepctl_common *common, const char *verb, struct err *err)
{
	char name[64], *socket = NULL;

	conn_init(conn, prepctl_interrupted, NULL);
	int code = paths_socket(&socket, common->socket, false, err);
	if (code == 0) {
		snprintf(name, sizeof(name), "prepctl %s", verb);
		code = conn_open(conn, socket, name, err);
	}
	mem_free(socket);
	return code;
}

int prepctl_call(struct conn *conn, const struct prepctl_common *common, const char *verb, const Wire__Request *request,
		 Wire__Reply__BodyCase expected, Wire__Reply **out, struct err *err)
{
	int code = prepctl_connect(conn, common, verb, err);

	return code != 0 ? code : conn_call(conn, request, expected, out, err);
}

int prepctl_exif(const char *text, bool *apply, struct err *err)
{
	*apply = strcmp(text, "apply") == 0;
	if (!*apply && strcmp(text, "ignore") != 0)
		return err_set(err, ERR_USAGE, "--exif: expected ignore or apply, got '%s'", text);
	return 0;
}

char *prepctl_bytes(char *out, uint64_t bytes)
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < ARRAY_LEN(units)) {
		value /= 1024;
		unit++;
	}
	snprintf(out, 24, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
	return out;
}

char *prepctl_count(char *out, uint64_t count, const char *one)
{
	snprintf(out, 64, "%llu %s%s", (unsigned long long)count, one, count == 1 ? "" : "s");
	return out;
}

char *prepctl_short_hash(char *out, ProtobufCBinaryData hash)
{
	size_t used = 0;

	for (size_t i = 0; i < hash.len && i < 6; i++)
		used += (size_t)snprintf(out + used, 13 - used, "%02x", hash.data[i]);
	out[used] = '\0';
	return out;
}

void prepctl_print_bytes(const ProtobufCBinaryData *text)
{
	char piece[PIECE_BYTES];

	if (!isatty(STDOUT_FILENO)) {
		fwrite(text->data, 1, text->len, stdout);
		return;
	}
	for (size_t at = 0, bytes; at < text->len; at += bytes) {
		bytes = text->len - at < sizeof(piece) ? text->len - at : sizeof(piece);
		if (bytes == sizeof(piece) && text->data[at + bytes - 1] == 0xC2)
			bytes--; /* one character stays in one piece */
		memcpy(piece, text->data + at, bytes);
		log_clean(piece, bytes);
		fwrite(piece, 1, bytes, stdout);
	}
}

void prepctl_print_detail(const Wire__DatasetDetail *detail)
{
	char a[64], b[64];
	const Wire__Dataset *dataset = detail->dataset;

	for (size_t i = 0; i < detail->n_splits; i++)
		printf("  split %-10s %s, %s\n", detail->splits[i]->name, prepctl_count(a, detail->splits[i]->pictures, "picture"),
		       prepctl_count(b, detail->splits[i]->captions, "caption"));
	if (detail->n_labels > 0)
		printf("  labels           %zu class%s\n", detail->n_labels, detail->n_labels == 1 ? "" : "es");
	if (dataset->vocab_name[0] != '\0')
		printf("  vocabulary       %s (%u words)\n", dataset->vocab_name, detail->vocab_size);
	else
		printf("  vocabulary       none: give --vocab FILE to tokenize the captions\n");
	printf("  failures         %llu%s\n", (unsigned long long)dataset->failures,
	       dataset->failures > 0 ? " (prepctl failures lists them)" : "");
}
