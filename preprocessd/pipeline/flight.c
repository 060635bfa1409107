#include "preprocessd/pipeline/flight.h"

#include <pthread.h>
#include <string.h>

#include "shared/base/mem.h"

enum { FLIGHT_BUCKETS = 4096 };

struct flights {
	pthread_mutex_t lock;
	pthread_cond_t landed;
	struct flight *buckets[FLIGHT_BUCKETS];
};

int flights_open(struct flights **out, struct err *err)
{
	struct flights *flights = mem_zalloc(sizeof(*flights));

	*out = NULL;
	if (flights == NULL)
		return err_nomem(err, sizeof(*flights));
	pthread_mutex_init(&flights->lock, NULL);
	pthread_cond_init(&flights->landed, NULL);
	*out = flights;
	return 0;
}

void flights_close(struct flights *flights)
{
	if (flights == NULL)
		return;
	for (int i = 0; i < FLIGHT_BUCKETS; i++)
		CHECK(flights->buckets[i] == NULL);
	pthread_cond_destroy(&flights->landed);
	pthread_mutex_destroy(&flights->lock);
	mem_free(flights);
}

static struct flight **bucket_of(struct flights *flights, const struct cache_key *key)
{
	return &flights->buckets[hash_checksum(key->bytes, key->size) % FLIGHT_BUCKETS];
}

static bool same_key(const struct cache_key *a, const struct cache_key *b)
{
	return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

/* lock is held */
static void drop_ref(struct flight *flight)
{
	if (--flight->refs > 0)
		return;
	mem_free(flight->payload);
	mem_free(flight->err);
	mem_free(flight);
}

/* lock is held */
static void unlist(struct flights *flights, struct flight *flight)
{
	struct flight **at = bucket_of(flights, &flight->key);

	if (!flight->listed)
		return;
	while (*at != flight)
		at = &(*at)->next;
	*at = flight->next;
	flight->listed = false;
	drop_ref(flight);
}

int flights_join(struct flights *flights, const struct cache_key *key, struct flight **out, bool *leads, struct err *err)
{
	struct flight **bucket = bucket_of(flights, key);
	struct flight *flight;
	int code = 0;

	pthread_mutex_lock(&flights->lock);
	for (flight = *bucket; flight != NULL && !same_key(&flight->key, key);)
		flight = flight->next;
	*leads = flight == NULL;
	if (flight == NULL) {
		flight = mem_zalloc(sizeof(*flight));
		if (flight == NULL) {
			code = err_nomem(err, sizeof(*flight));
			goto out;
		}
		flight->key = *key;
		flight->refs = 2; /* the list's and the leader's */
		flight->listed = true;
		flight->next = *bucket;
		*bucket = flight;
	} else {
		flight->refs++;
		while (flight->state == FLIGHT_RUNNING)
			pthread_cond_wait(&flights->landed, &flights->lock);
	}
	*out = flight;
out:
	pthread_mutex_unlock(&flights->lock);
	return code;
}

void flights_land(struct flights *flights, struct flight *flight, void *payload, size_t size, uint64_t checksum)
{
	pthread_mutex_lock(&flights->lock);
	flight->payload = payload;
	flight->size = size;
	flight->checksum = checksum;
	flight->state = FLIGHT_LANDED;
	pthread_cond_broadcast(&flights->landed);
	pthread_mutex_unlock(&flights->lock);
}

void flights_fail(struct flights *flights, struct flight *flight, const struct err *reason)
{
	pthread_mutex_lock(&flights->lock);
	flight->err = mem_alloc(sizeof(*flight->err));
	if (flight->err != NULL)
		*flight->err = *reason;
	flight->state = FLIGHT_FAILED;
	pthread_cond_broadcast(&flights->landed);
	unlist(flights, flight);
	pthread_mutex_unlock(&flights->lock);
}

void flights_void(struct flights *flights, struct flight *flight)
{
	pthread_mutex_lock(&flights->lock);
	flight->state = FLIGHT_VOID;
	pthread_cond_broadcast(&flights->landed);
	unlist(flights, flight);
	pthread_mutex_unlock(&flights->lock);
}

void flights_settle(struct flights *flights, struct flight *flight)
{
	pthread_mutex_lock(&flights->lock);
	unlist(flights, flight);
	pthread_mutex_unlock(&flights->lock);
}

void flights_leave(struct flights *flights, struct flight *flight)
{
	pthread_mutex_lock(&flights->lock);
	drop_ref(flight);
	pthread_mutex_unlock(&flights->lock);
}

int flight_error(const struct flight *flight, struct err *err)
{
	CHECK(flight->state == FLIGHT_FAILED);
	if (flight->err == NULL)
		return err_nomem(err, sizeof(*flight->err));
	*err = *flight->err;
	return err->code;
}
