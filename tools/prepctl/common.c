#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "shared/base/paths.h"
#include "shared/base/plural.h"
#include "shared/base/stop.h"
#include "shared/base/utf8.h"
#include "tools/prepctl/prepctl.h"

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
	if (!stop_is_ignored(SIGHUP))
		sigaction(SIGHUP, &action, NULL);
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
	if (common->start_ms > 0)
		conn->start_ms = common->start_ms;
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
	snprintf(out, 64, "%llu %s%s", (unsigned long long)count, one, plural(count));
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

/* Prints what stands at text and returns how many bytes that were. */
static size_t print_char(const char *text, size_t size)
{
	static const char names[] = "t\tn\nr\r\\\\";
	unsigned char c = (unsigned char)text[0];
	size_t bytes = utf8_char_bytes(text, size);
	bool control = c < 0x20 || c == 0x7F || (c == 0xC2 && bytes == 2 && (unsigned char)text[1] < 0xA0);

	for (size_t i = 0; names[i] != '\0'; i += 2) {
		if (c == (unsigned char)names[i + 1]) {
			printf("\\%c", names[i]);
			return 1;
		}
	}
	if (bytes > 0 && !control) {
		fwrite(text, 1, bytes, stdout);
		return bytes;
	}
	bytes = bytes == 0 ? 1 : bytes;
	for (size_t i = 0; i < bytes; i++)
		printf("\\x%02x", (unsigned char)text[i]);
	return bytes;
}

void prepctl_print_bytes(const ProtobufCBinaryData *text)
{
	size_t at = 0;

	while (at < text->len)
		at += print_char((const char *)text->data + at, text->len - at);
}

void prepctl_print_text(const char *text)
{
	ProtobufCBinaryData bytes = wire_string(text);

	prepctl_print_bytes(&bytes);
}

int prepctl_check_path(const char *what, const char *path, struct err *err)
{
	static const char *const ours[] = { "/dev/fd/", "/proc/self/", "/proc/thread-self/", "/dev/stdin", "-" };

	for (size_t i = 0; i < ARRAY_LEN(ours); i++) {
		size_t bytes = strlen(ours[i]);

		if (ours[i][bytes - 1] == '/' ? strncmp(path, ours[i], bytes) == 0 : strcmp(path, ours[i]) == 0)
			return err_set(err, ERR_USAGE, "%s %s: the daemon opens it, and what is open here is not open there; write it to a file "
				       "first and name that", what, path);
	}
	return 0;
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
