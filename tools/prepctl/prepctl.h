/*
 * prepctl.h - what the verbs share. Each verb parses its own options, does its
 * work, prints to standard output and returns 0 or an error for main.c.
 */
#ifndef TOOLS_PREPCTL_PREPCTL_H
#define TOOLS_PREPCTL_PREPCTL_H

#include <stdbool.h>

#include "shared/base/args.h"
#include "shared/base/buf.h"
#include "shared/client/conn.h"

/* The options that every verb has; PREPCTL_OPTIONS puts them into its table. */
struct prepctl_common {
	const char *socket, *cache;
	int start_ms; /* conn.h; 0: as usual */
};

#define PREPCTL_OPTIONS(common) \
	{ .name = "socket", .kind = ARGS_TEXT, .value = &(common)->socket, .metavar = "PATH", \
	  .help = "The daemon's socket. Default: $PREPROCESSD_SOCKET, else preprocessd/preprocessd.sock in $XDG_RUNTIME_DIR, else " \
		  "/tmp/preprocessd-UID/preprocessd.sock." }, \
	{ .name = "cache", .kind = ARGS_TEXT, .value = &(common)->cache, .metavar = "DIR", \
	  .help = "Accepted as by the other programs; the daemon knows its cache." }

/* For verbs that need no daemon: what every program accepts is accepted there, too. */
#define PREPCTL_OPTIONS_UNUSED(common) \
	{ .name = "socket", .kind = ARGS_TEXT, .value = &(common)->socket, .metavar = "PATH", \
	  .help = "Accepted as by the other verbs; no daemon is asked." }, \
	{ .name = "cache", .kind = ARGS_TEXT, .value = &(common)->cache, .metavar = "DIR", .help = "Accepted; not used." }

int prepctl_add(int argc, char *const argv[], struct err *err);
int prepctl_batch(int argc, char *const argv[], struct err *err);
int prepctl_datasets(int argc, char *const argv[], struct err *err);
int prepctl_digests(int argc, char *const argv[], struct err *err);
int prepctl_explain(int argc, char *const argv[], struct err *err);
int prepctl_failures(int argc, char *const argv[], struct err *err);
int prepctl_gc(int argc, char *const argv[], struct err *err);
int prepctl_rm(int argc, char *const argv[], struct err *err);
int prepctl_show(int argc, char *const argv[], struct err *err);
int prepctl_samples(int argc, char *const argv[], struct err *err);
int prepctl_shutdown(int argc, char *const argv[], struct err *err);
int prepctl_status(int argc, char *const argv[], struct err *err);
int prepctl_verify(int argc, char *const argv[], struct err *err);

/* Parses; on --help prints it and sets result->help. */
MUST_USE int prepctl_parse(const struct args_spec *spec, int argc, char *const argv[], struct args_result *result,
			   struct err *err);
/* Connects. conn_free() in any case. */
MUST_USE int prepctl_connect(struct conn *conn, const struct prepctl_common *common, const char *verb, struct err *err);
/* Connects, sends one request, and gives the reply of this kind; conn_free() in any case. */
MUST_USE int prepctl_call(struct conn *conn, const struct prepctl_common *common, const char *verb,
			  const Wire__Request *request, Wire__Reply__BodyCase expected, Wire__Reply **out, struct err *err);

/* Ctrl-C was pressed, or SIGTERM or SIGHUP (unless nohup ignores it) came: for `cancelled` of connections. */
bool prepctl_interrupted(void *context);
void prepctl_watch_interrupt(void);

/* ERR_USAGE for what only this process can open (standard input, <(...) of a shell): it is the daemon that opens path. */
MUST_USE int prepctl_check_path(const char *what, const char *path, struct err *err);
/* --exif's value. */
MUST_USE int prepctl_exif(const char *text, bool *apply, struct err *err);
/* "12.3 MB"; out has at least 24 bytes. Returns out. */
char *prepctl_bytes(char *out, uint64_t bytes);
/* "1 picture", "2 pictures"; out has at least 64 bytes. Returns out. */
char *prepctl_count(char *out, uint64_t count, const char *one);
/* The first 12 hexadecimal digits; out has at least 13 bytes. Returns out. */
char *prepctl_short_hash(char *out, ProtobufCBinaryData hash);
/* Names, captions and labels to standard output, so that each stays on its line and between its tabs, and none steers a
 * terminal: control characters, backslashes and what is no UTF-8 as PREPCTL_ESCAPES says. */
void prepctl_print_bytes(const ProtobufCBinaryData *text);
void prepctl_print_text(const char *text);
#define PREPCTL_ESCAPES \
	"Control characters in names and texts are written as \\n, \\r, \\t, or \\xHH for each byte, as are bytes that are no UTF-8; a backslash is \\\\."
/* Prints what add and show say about a data set. */
void prepctl_print_detail(const Wire__DatasetDetail *detail);

#endif
