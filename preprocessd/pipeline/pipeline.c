#include "preprocessd/pipeline/pipeline.h"

#include "preprocessd/pipeline/catalog.h"
#include "preprocessd/pipeline/flight.h"
#include "preprocessd/pipeline/pool.h"
#include "preprocessd/pipeline/reserve.h"
#include "shared/base/mem.h"

int pipeline_open(struct pipeline **out, const struct pipeline_options *options, struct err *err)
{
	int code;
	struct pipeline *pipeline = mem_zalloc(sizeof(*pipeline));

	*out = NULL;
	if (pipeline == NULL)
		return err_nomem(err, sizeof(*pipeline));
	pthread_mutex_init(&pipeline->put_lock, NULL);
	pthread_mutex_init(&pipeline->register_lock, NULL);
	pipeline->datasets_max = options->datasets_max;
	pipeline->cache = options->cache;
	pipeline->post = options->post;
	pipeline->post_context = options->post_context;
	if ((code = flights_open(&pipeline->flights, err)) != 0 || (code = catalog_open(&pipeline->catalog, err)) != 0 ||
	    (code = reserve_open(&pipeline->reserve, err)) != 0 ||
	    (code = pool_open(&pipeline->pool, pipeline, options->workers, err)) != 0) {
		pipeline_close(pipeline);
		return code;
	}
	*out = pipeline;
	return 0;
}

void pipeline_close(struct pipeline *pipeline)
{
	if (pipeline == NULL)
		return;
	pool_close(pipeline->pool);
	reserve_close(pipeline->reserve);
	/* Puts that are still queued settle their flights when they are done. */
	if (pipeline->flights != NULL)
		cache_flush(pipeline->cache);
	catalog_close(pipeline->catalog);
	flights_close(pipeline->flights);
	pthread_mutex_destroy(&pipeline->register_lock);
	pthread_mutex_destroy(&pipeline->put_lock);
	mem_free(pipeline);
}
