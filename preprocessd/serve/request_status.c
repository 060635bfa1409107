/* What the daemon has done, and for whom. Clients are the loop's to look at, so most of it comes after the work. */
#include "preprocessd/pipeline/describe.h"
#include "preprocessd/serve/request_parts.h"
#include "shared/base/clock.h"

int request_status(struct worker *worker, struct control *control, struct err *err)
{
	return describe_count(worker->reader, CACHE_DATASET, &control->datasets, err);
}

static void fill_counters(Wire__Counters *out, struct counters *counters)
{
	out->decoded = counter_get(&counters->decoded);
	out->tokenized = counter_get(&counters->tokenized);
	out->hits = counter_get(&counters->hits);
	out->misses = counter_get(&counters->misses);
	out->caption_hits = counter_get(&counters->caption_hits);
	out->caption_misses = counter_get(&counters->caption_misses);
	out->joins = counter_get(&counters->joins);
	out->remade = counter_get(&counters->remade);
	out->failures = counter_get(&counters->failures);
	out->source_bytes = counter_get(&counters->source_bytes);
	out->batches = counter_get(&counters->batches);
	out->batch_bytes = counter_get(&counters->batch_bytes);
	out->feature_hits = counter_get(&counters->feature_hits);
	out->feature_misses = counter_get(&counters->feature_misses);
	out->features_kept = counter_get(&counters->features_kept);
}

/* All but the one who asks. */
static size_t fill_clients(const struct connection *asking, Wire__ClientStatus *clients, Wire__ClientStatus **pointers)
{
	size_t count = 0;
	double now = clock_seconds();

	for (struct connection *c = asking->server->connections; c != NULL && count < SERVER_CLIENTS_MAX; c = c->next) {
		Wire__ClientStatus *client = &clients[count];

		if (!c->greeted || c->closing || c == asking)
			continue;
		wire__client_status__init(client);
		client->name = c->name;
		client->pid = c->pid;
		client->doing = c->doing;
		client->batches = c->batches;
		client->connected_s = now - c->since_s;
		pointers[count++] = client;
	}
	return count;
}

void request_status_then(struct control *control)
{
	struct server *server = control->connection->server;
	Wire__ClientStatus clients[SERVER_CLIENTS_MAX], *pointers[SERVER_CLIENTS_MAX];
	Wire__Counters counters = WIRE__COUNTERS__INIT;
	Wire__StatusReply status = WIRE__STATUS_REPLY__INIT;
	Wire__Reply reply = WIRE__REPLY__INIT;
	struct cache_stats stats;

	cache_stats(server->cache, &stats);
	fill_counters(&counters, &server->pipeline->counters);
	status.pid = (uint32_t)uv_os_getpid();
	status.program = (char *)(uintptr_t)SERVER_PROGRAM;
	status.uptime_s = clock_seconds() - server->start_s;
	status.workers = (uint32_t)pool_workers(server->pipeline->pool);
	status.cache_path = wire_string(server->cache_path);
	status.socket_path = wire_string(server->options->socket);
	status.counters = &counters;
	status.cache_records = stats.records;
	status.cache_file_bytes = stats.file_bytes;
	status.cache_used_bytes = stats.used_bytes;
	status.cache_max_bytes = server->options->max_cache_bytes;
	status.datasets = control->datasets;
	status.n_clients = fill_clients(control->connection, clients, pointers);
	status.clients = pointers;
	reply.id = control->request->id;
	reply.body_case = WIRE__REPLY__BODY_STATUS;
	reply.status = &status;
	connection_reply(control->connection, &reply);
}
