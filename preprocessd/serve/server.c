#include "preprocessd/serve/server.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "preprocessd/serve/internal.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/paths.h"
#include "shared/base/plural.h"
#include "shared/base/stop.h"

/* Descriptors: 13 that the running daemon holds, a connection, and CLIENT_DESCRIPTORS. */
enum { CACHE_TRIES = 20, CACHE_WAIT_MS = 50, DESCRIPTORS_MIN = 18 };

/* --- from other threads ------------------------------------------------------------------ */

static void post(void *context, struct completion *completion)
{
	struct server *server = context;

	uv_mutex_lock(&server->completions_lock);
	completion->next = NULL;
	*server->completions_last = completion;
	server->completions_last = &completion->next;
	uv_mutex_unlock(&server->completions_lock);
	uv_async_send(&server->wakeup);
}

static void take_completions(struct server *server)
{
	uv_mutex_lock(&server->completions_lock);
	struct completion *completion = server->completions;
	server->completions = NULL;
	server->completions_last = &server->completions;
	uv_mutex_unlock(&server->completions_lock);
	while (completion != NULL) {
		struct completion *next = completion->next; /* run() may free it */

		completion->run(completion);
		completion = next;
	}
}

static void on_wakeup(uv_async_t *async)
{
	struct server *server = async->data;

	take_completions(server);
	server_check_drained(server);
}

/* --- stopping ------------------------------------------------------------------------------- */

/* Signals stay watched until nothing is left that one could interrupt: end_signals(). */
static void let_go(uv_handle_t *handle, void *context)
{
	(void)context;
	if (handle->type == UV_SIGNAL)
		uv_unref(handle);
	else if (!uv_is_closing(handle))
		uv_close(handle, NULL);
}

void server_check_drained(struct server *server)
{
	/* A closed feed may still have a worker reading ahead, which posts when it stops. */
	if (!server->draining || server->drained || server->connections != NULL ||
	    atomic_load(&server->pipeline->feeds) > 0)
		return;
	server->drained = true;
	uv_walk(&server->loop, let_go, NULL);
}

/* Whoever has not taken the last replies by now will not. */
static void drain_late(uv_timer_t *timer)
{
	struct server *server = timer->data;
	struct connection *next;

	for (struct connection *c = server->connections; c != NULL; c = next) {
		next = c->next;
		if (!connection_busy(c))
			connection_close(c);
	}
}

void server_drain(struct server *server, const char *why)
{
	struct connection *next;

	if (server->draining)
		return;
	server->draining = true;
	log_info("stopping (%s): finishing what clients wait for", why);
	uv_close((uv_handle_t *)&server->listener, NULL);
	socket_stop(server->lock);
	for (struct connection *c = server->connections; c != NULL; c = next) {
		next = c->next;
		control_cancel(c->control);
		connection_settle(c);
	}
	uv_timer_start(&server->drain_timer, drain_late, DRAIN_MS, DRAIN_MS);
	server_check_drained(server);
}

/* While the cache is closed the loop does not run any more. */
static void on_late_signal(int number)
{
	if (stop_is_repeated()) {
		signal(number, SIG_DFL);
		raise(number);
	}
}

/* From here on the loop does not look at signals. */
static void watch_late_signals(const struct server *server)
{
	struct sigaction action = { .sa_handler = on_late_signal, .sa_flags = SA_RESTART };

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	if (uv_is_active((const uv_handle_t *)&server->sighup))
		sigaction(SIGHUP, &action, NULL);
}

/* libuv gives them their default effect back, the end of the process with 143: blocked, they come too late for that. There are no
 * other threads any more. */
static void end_signals(struct server *server)
{
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	sigaddset(&blocked, SIGINT);
	sigaddset(&blocked, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	uv_close((uv_handle_t *)&server->sigterm, NULL);
	uv_close((uv_handle_t *)&server->sigint, NULL);
	uv_close((uv_handle_t *)&server->sighup, NULL);
	uv_run(&server->loop, UV_RUN_DEFAULT);
}

static void on_signal(uv_signal_t *handle, int number)
{
	struct server *server = handle->data;

	if (stop_is_repeated()) {
		log_warn("stopping at once, on a second signal");
		signal(number, SIG_DFL);
		raise(number);
	}
	server_drain(server, number == SIGINT ? "interrupted" : number == SIGHUP ? "SIGHUP: its terminal is gone" : "SIGTERM");
}

/* --- starting --------------------------------------------------------------------------------- */

static void on_connection(uv_stream_t *stream, int status)
{
	struct server *server = stream->data;

	if (status != 0)
		log_warn("cannot take a new client: %s", uv_strerror(status));
	else
		connection_accept(server);
}

static int uv_error(struct err *err, int status, const char *what)
{
	return err_set(err, ERR_IO, "%s: %s", what, uv_strerror(status));
}

/* libuv aborts where it cannot open its own pipes, and a daemon that cannot open a picture is of no use. */
int server_check_descriptors(int wanted, struct err *err)
{
	int fds[DESCRIPTORS_MIN], count = 0, code = 0;

	CHECK(wanted <= DESCRIPTORS_MIN);
	while (count < wanted && (fds[count] = eventfd(0, EFD_CLOEXEC)) >= 0)
		count++;
	if (count < wanted)
		code = err_errno(err, errno, "preprocessd needs at least %d more descriptors (ulimit -n)", wanted);
	while (count > 0)
		close(fds[--count]);
	return code;
}

static int init_loop(struct server *server, struct err *err)
{
	int status = uv_loop_init(&server->loop);

	if (status != 0)
		return uv_error(err, status, "cannot start the event loop");
	server->completions_last = &server->completions;
	CHECK(uv_mutex_init(&server->completions_lock) == 0);
	if ((status = uv_async_init(&server->loop, &server->wakeup, on_wakeup)) != 0 ||
	    (status = uv_signal_init(&server->loop, &server->sigterm)) != 0 ||
	    (status = uv_signal_init(&server->loop, &server->sigint)) != 0 ||
	    (status = uv_signal_init(&server->loop, &server->sighup)) != 0 ||
	    (status = uv_timer_init(&server->loop, &server->drain_timer)) != 0 ||
	    (status = uv_pipe_init(&server->loop, &server->listener, 0)) != 0)
		return uv_error(err, status, "cannot start the event loop");
	server->wakeup.data = server->sigterm.data = server->sigint.data = server->sighup.data = server->drain_timer.data =
		server->listener.data = server;
	if ((status = uv_signal_start(&server->sigterm, on_signal, SIGTERM)) != 0 ||
	    (status = uv_signal_start(&server->sigint, on_signal, SIGINT)) != 0 ||
	    (!stop_is_ignored(SIGHUP) && (status = uv_signal_start(&server->sighup, on_signal, SIGHUP)) != 0))
		return uv_error(err, status, "cannot watch for signals");
	return 0;
}

static bool server_has_groups(const struct server *server)
{
	return server->options->readers != SERVER_NO_GROUP || server->options->adders != SERVER_NO_GROUP;
}

static int start_listening(struct server *server, struct err *err)
{
	int fd, status;
	int code = socket_listen(server->lock, server_has_groups(server), &fd, err);

	if (code != 0)
		return code;
	if ((status = uv_pipe_open(&server->listener, fd)) != 0) {
		close(fd);
		return uv_error(err, status, server->options->socket);
	}
	status = uv_listen((uv_stream_t *)&server->listener, SERVER_CLIENTS_MAX, on_connection);
	return status != 0 ? uv_error(err, status, server->options->socket) : 0;
}

static int open_all(struct server *server, struct err *err)
{
	const struct server_options *options = server->options;
	struct cache_options cache = { .path = server->cache_path, .max_bytes = options->max_cache_bytes };
	struct pipeline_options pipeline = { .workers = options->workers, .datasets_max = options->datasets_max, .post = post, .post_context = server };
	int code;

	/* A daemon that was killed a moment ago may still be on its way out. */
	for (int tries = 0;; tries++) {
		code = cache_open(&server->cache, &cache, err);
		if (code != ERR_BUSY || tries == CACHE_TRIES)
			break;
		uv_sleep(CACHE_WAIT_MS);
	}
	if (code != 0)
		return code;
	pipeline.cache = server->cache;
	if ((code = pipeline_open(&server->pipeline, &pipeline, err)) != 0)
		return code;
	return start_listening(server, err);
}

static int serve(struct server *server, struct err *err)
{
	const struct server_options *options = server->options;
	int code = server_check_descriptors(DESCRIPTORS_MIN, err);

	if (code != 0 || (code = init_loop(server, err)) != 0)
		return code;
	code = open_all(server, err);
	if (code == 0) {
		log_info("ready: socket %s, cache %s, %d worker%s", options->socket, server->cache_path, options->workers,
			 plural(options->workers));
		uv_run(&server->loop, UV_RUN_DEFAULT);
	}
	uv_walk(&server->loop, let_go, NULL);
	uv_run(&server->loop, UV_RUN_DEFAULT);
	watch_late_signals(server);
	pipeline_close(server->pipeline);
	cache_close(server->cache);
	end_signals(server);
	CHECK(uv_loop_close(&server->loop) == 0);
	uv_mutex_destroy(&server->completions_lock);
	return code;
}

int server_run(const struct server_options *options, struct err *err)
{
	struct server server = { .options = options, .start_s = clock_seconds() };
	int code;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is an error like a full disk */
	if ((code = socket_lock_open(&server.lock, options->socket, err)) != 0)
		return code;
	/* Only now: a daemon that is refused leaves no folder behind. */
	code = paths_cache(&server.cache_path, options->cache, true, err);
	if (code == 0)
		code = serve(&server, err);
	socket_lock_close(server.lock);
	mem_free(server.cache_path);
	if (code == 0)
		log_info("stopped");
	return code;
}
