/*
 * task.c - requests that take a thread of their own and tell how far they are: adding a data set, looking over the cache.
 */
#include <stdio.h>
#include <string.h>

#include "preprocessd/serve/internal.h"
#include "shared/base/log.h"

void control_cancel(struct control *control)
{
	if (control == NULL)
		return;
	if (control->add != NULL)
		add_cancel(control->add);
	if (control->upkeep != NULL)
		upkeep_cancel(control->upkeep);
}

/* Name of the data set that is added, or of the verb. */
static const char *subject_of(const struct control *control)
{
	if (control->add != NULL)
		return control->request->add_dataset->name;
	return control->request->verb_case == WIRE__REQUEST__VERB_VERIFY_CACHE ? "verify" : "gc";
}

static void log_end(const struct control *control)
{
	struct err err;
	int code = control->add != NULL ? add_result(control->add, &err) : upkeep_result(control->upkeep, &err);

	if (code == ERR_CANCELLED)
		log_warn("%s", err.message); /* says itself what was */
	else if (code != 0)
		log_warn("%s%s: %s", control->add != NULL ? "adding " : "", subject_of(control), err.message);
	else if (control->add != NULL)
		log_info("added data set %s", subject_of(control));
	else
		log_info("%s done", subject_of(control));
}

static void task_done(struct completion *completion)
{
	struct control *control = (struct control *)(void *)((char *)completion - offsetof(struct control, completion));
	struct connection *connection = control->connection;
	const struct buf *reply = control->add != NULL ? add_reply(control->add) : upkeep_reply(control->upkeep);

	uv_timer_stop(&connection->timer);
	connection->control = NULL;
	connection->doing[0] = '\0';
	log_end(control);
	if (reply != NULL)
		connection_send_frame(connection, reply);
	else
		connection_close(connection);
	add_free(control->add);
	upkeep_free(control->upkeep);
	control_free(control);
	connection_settle(connection);
}

static void tell_progress(struct connection *connection)
{
	static const char *const phases[] = { "reading", "pictures", "captions", "committing", "records" };
	struct control *control = connection->control;
	Wire__Progress progress = WIRE__PROGRESS__INIT;
	Wire__Reply reply = WIRE__REPLY__INIT;

	if (control == NULL || (control->add == NULL && control->upkeep == NULL))
		return;
	if (control->add != NULL)
		add_progress(control->add, &progress);
	else
		upkeep_progress(control->upkeep, &progress);
	snprintf(connection->doing, sizeof(connection->doing), "%s%.*s: %s %llu/%llu", control->add != NULL ? "add " : "",
		 MANIFEST_NAME_BYTES_MAX, subject_of(control), phases[progress.phase], (unsigned long long)progress.done,
		 (unsigned long long)progress.total);
	/* A client that does not read gets no more of them. */
	if (connection->closing || connection->write_active || connection->unsent.size > 0)
		return;
	reply.id = control->request->id;
	reply.body_case = WIRE__REPLY__BODY_PROGRESS;
	reply.progress = &progress;
	connection_reply(connection, &reply);
}

static void progress_timer(uv_timer_t *timer)
{
	tell_progress(timer->data);
}

static void begin(struct connection *connection, struct control *control)
{
	connection->control = control;
	tell_progress(connection);
	uv_timer_start(&connection->timer, progress_timer, PROGRESS_MS, PROGRESS_MS);
}

/* Another connection's control that matches; one whose client has gone counts while it still runs. */
static const struct connection *find_task(const struct server *server, bool (*matches)(const struct control *control, const void *with),
					  const void *with)
{
	for (const struct connection *c = server->connections; c != NULL; c = c->next)
		if (c->control != NULL && matches(c->control, with))
			return c;
	return NULL;
}

static bool is_add(const struct control *control, const void *with)
{
	(void)with;
	return control->add != NULL;
}

/* gc that only counts is in nobody's way. */
static bool is_collecting(const struct control *control, const void *with)
{
	(void)with;
	return control->upkeep != NULL && control->request->verb_case == WIRE__REQUEST__VERB_COLLECT_GARBAGE &&
	       !control->request->collect_garbage->dry_run;
}

static bool is_upkeep(const struct control *control, const void *with)
{
	(void)with;
	return control->upkeep != NULL;
}

static int check_add(const struct server *server, const Wire__AddDataset *request, struct err *err)
{
	const struct connection *other;

	if (request->n_images + request->n_captions > ADD_PATHS_MAX)
		return err_set(err, ERR_LIMIT, "%zu folders and caption files; the limit is %d",
			       request->n_images + request->n_captions, ADD_PATHS_MAX);
	/* One whose client has gone is on its way out and in nobody's way. */
	for (const struct connection *c = server->connections; c != NULL; c = c->next)
		if (!c->closing && c->control != NULL && c->control->add != NULL &&
		    strcmp(c->control->request->add_dataset->name, request->name) == 0)
			return err_set(err, ERR_BUSY, "%s is being added by %s (pid %u) at this moment; wait for it", request->name,
				       c->name, c->pid);
	if ((other = find_task(server, is_collecting, NULL)) != NULL)
		return err_set(err, ERR_BUSY, "gc, started by pid %u, is removing what no data set needs; wait for it", other->pid);
	return 0;
}

int task_start_add(struct connection *connection, struct control *control, struct err *err)
{
	struct server *server = connection->server;
	const Wire__AddDataset *request = control->request->add_dataset;
	int code = check_add(server, request, err);

	if (code != 0)
		return code;
	control->completion.run = task_done;
	code = add_start(&control->add, server->pipeline, control->request->id, request, &connection->rights, &control->completion, err);
	if (code == 0)
		begin(connection, control);
	return code;
}

static int check_upkeep(const struct server *server, const struct upkeep_options *options, struct err *err)
{
	const struct connection *other;

	if ((other = find_task(server, is_upkeep, NULL)) != NULL)
		return err_set(err, ERR_BUSY, "%s, started by pid %u, is under way; wait for it", subject_of(other->control), other->pid);
	if (options->collect && !options->dry_run && (other = find_task(server, is_add, NULL)) != NULL)
		return err_set(err, ERR_BUSY, "%s is being added by pid %u, and gc would take what it has prepared; wait for it",
			       subject_of(other->control), other->pid);
	return 0;
}

int task_start_upkeep(struct connection *connection, struct control *control, struct err *err)
{
	const Wire__Request *request = control->request;
	struct server *server = connection->server;
	struct upkeep_options options = { .collect = request->verb_case == WIRE__REQUEST__VERB_COLLECT_GARBAGE };
	int code;

	if (options.collect)
		options.dry_run = request->collect_garbage->dry_run;
	else
		options.mend = request->verify_cache->mend;
	if ((code = check_upkeep(server, &options, err)) != 0)
		return code;
	control->completion.run = task_done;
	code = upkeep_start(&control->upkeep, server->pipeline, request->id, &options, &control->completion, err);
	if (code == 0)
		begin(connection, control);
	return code;
}
