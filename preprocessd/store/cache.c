#include "preprocessd/store/cache.h"

#include <string.h>
#include <sys/stat.h>

#include "preprocessd/store/guard.h"
#include "preprocessd/store/internal.h"
#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"

/* --- opening and closing --------------------------------------------------------- */

static void init_locks(struct cache *cache)
{
	pthread_rwlockattr_t gate;
	pthread_condattr_t monotonic;

	/* A waiting writer goes first: readers come in an endless stream. */
	pthread_rwlockattr_init(&gate);
	pthread_rwlockattr_setkind_np(&gate, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&cache->gate, &gate);
	pthread_rwlockattr_destroy(&gate);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&cache->work, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_cond_init(&cache->room, NULL);
	pthread_cond_init(&cache->settled, NULL);
	pthread_mutex_init(&cache->lock, NULL);
	pthread_mutex_init(&cache->readers_lock, NULL);
}

static void destroy_locks(struct cache *cache)
{
	pthread_mutex_destroy(&cache->readers_lock);
	pthread_mutex_destroy(&cache->lock);
	pthread_cond_destroy(&cache->settled);
	pthread_cond_destroy(&cache->room);
	pthread_cond_destroy(&cache->work);
	pthread_rwlock_destroy(&cache->gate);
}

int cache_open(struct cache **out, const struct cache_options *options, struct err *err)
{
	int code;
	struct cache *cache;

	*out = NULL;
	if (options->max_bytes != 0 && options->max_bytes < CACHE_LIMIT_BYTES_MIN)
		return err_set(err, ERR_LIMIT, "a cache limit of %llu byte%s; --max-cache takes at least %d KiB, or 0 for no limit",
			       (unsigned long long)options->max_bytes, plural(options->max_bytes), CACHE_LIMIT_BYTES_MIN >> 10);
	if (!fs_is_dir(options->path))
		return err_set(err, ERR_NOTFOUND, "the cache folder %s does not exist or is no folder", options->path);
	if ((cache = mem_zalloc(sizeof(*cache))) == NULL)
		return err_nomem(err, sizeof(*cache));
	guard_install();
	cache->lock_fd = -1;
	cache->last = &cache->first;
	cache->max_bytes = options->max_bytes;
	init_locks(cache);
	if ((cache->path = mem_strdup(options->path)) == NULL) {
		code = err_nomem(err, strlen(options->path));
		goto failed;
	}
	if ((code = env_names(cache, err)) != 0 || (code = env_lock(cache, err)) != 0 || (code = env_open(cache, options->first_map_bytes, err)) != 0 ||
	    (code = writer_start(cache, err)) != 0)
		goto failed;
	*out = cache;
	return 0;
failed:
	cache_close(cache);
	return code;
}

void cache_close(struct cache *cache)
{
	if (cache == NULL)
		return;
	writer_stop(cache);
	CHECK(cache->readers == NULL);
	env_close(cache);
	env_unlock(cache);
	destroy_locks(cache);
	mem_free(cache->path);
	mem_free(cache->check_path);
	mem_free(cache->end_message);
	mem_free(cache);
}

/* --- figures -------------------------------------------------------------------------------- */

/* Of a damaged file there are none. */
static bool tree_stats(const struct cache *cache, MDB_stat *out)
{
	struct guard guard;
	bool there;

	if (guard_enter(&guard) == 0)
		there = mdb_env_stat(cache->env, out) == 0;
	else
		there = false;
	guard_leave();
	return there;
}

void cache_stats(struct cache *cache, struct cache_stats *out)
{
	MDB_stat pages;
	struct stat file;
	mdb_filehandle_t fd;

	*out = (struct cache_stats){
		.puts = atomic_load_explicit(&cache->puts, memory_order_relaxed),
		.commits = atomic_load_explicit(&cache->commits, memory_order_relaxed),
	};
	pthread_rwlock_rdlock(&cache->gate);
	if (cache->env != NULL && tree_stats(cache, &pages)) {
		out->map_bytes = cache->map_bytes;
		out->records = pages.ms_entries > 0 ? pages.ms_entries - 1 : 0; /* without the cache's own */
		out->used_bytes = (uint64_t)(pages.ms_branch_pages + pages.ms_leaf_pages + pages.ms_overflow_pages) * pages.ms_psize;
		if (mdb_env_get_fd(cache->env, &fd) == 0 && fstat(fd, &file) == 0)
			out->file_bytes = (uint64_t)file.st_size;
	}
	pthread_rwlock_unlock(&cache->gate);
}
