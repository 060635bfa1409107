/*
 * bench_resnet.c - the image tower alone: its speed, and a door for parity tests.
 *
 *   bench_resnet speed ARCH SIZE BATCH STEPS [THREADS [KERNELS]]
 *       pictures/s of forward and of forward + backward, GFLOP/s over the convolutions and fc, and their share of
 *       the FMA peak measured in the same run.
 *   bench_resnet run ARCH SIZE MODE KERNELS IN.safetensors OUT.safetensors [THREADS]
 *       IN holds the tower's parameters under torchvision's names (`conv1.weight` ...), `image` (B,3,S,S) and `dv`
 *       (B,768); OUT gets `v`, `dimage`, NAME.grad, and the running statistics afterwards.
 *
 * ARCH: resnet18, resnet50, tiny. MODE: train, keep, eval, inference. KERNELS: fast, onednn, openblas, reference, bf16.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/io/tensorfile.h"
#include "trainer/model/resnet.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/process.h"

static const char PREFIX[] = "image_encoder.";
enum { PREFIX_BYTES = sizeof(PREFIX) - 1, FEATURES = 768 };

static bool arch_config(struct resnet_config *config, const char *arch, int size)
{
	*config = (struct resnet_config){ .blocks = { 2, 2, 2, 2 }, .width = 64, .image_size = size, .out_features = FEATURES };
	if (strcmp(arch, "resnet50") == 0) {
		config->bottleneck = true;
		memcpy(config->blocks, (int[]){ 3, 4, 6, 3 }, sizeof(config->blocks));
	} else if (strcmp(arch, "tiny") == 0) {
		config->width = 16;
		memcpy(config->blocks, (int[]){ 1, 1, 1, 1 }, sizeof(config->blocks));
	} else if (strcmp(arch, "resnet18") != 0) {
		return false;
	}
	return true;
}

static bool choose_kernels(struct kernels *out, const char *name)
{
	*out = strcmp(name, "reference") == 0 ? *kernels_reference() : *kernels_fast();
	if (strcmp(name, "onednn") == 0)
		out->image = image_ops_onednn();
	else if (strcmp(name, "bf16") == 0)
		out->image = image_ops_bf16();
	else if (strcmp(name, "openblas") == 0)
		out->image = image_ops_blas();
	else if (strcmp(name, "fast") != 0 && strcmp(name, "reference") != 0)
		return false;
	return out->image != NULL;
}

struct tower {
	struct kernels kernels;
	struct params *params;
	struct resnet *resnet;
};

static int tower_open(struct tower *tower, const struct resnet_config *config, int pictures, bool training, struct err *err)
{
	int rc = params_open(&tower->params, err);

	if (rc == 0)
		rc = resnet_open(&tower->resnet, config, &tower->kernels, tower->params, err);
	if (rc == 0)
		rc = params_allocate(tower->params, err);
	if (rc == 0)
		rc = resnet_plan(tower->resnet, pictures, training, false, err);
	if (rc == 0)
		params_init(tower->params, 1);
	return rc;
}

static void tower_close(struct tower *tower)
{
	resnet_close(tower->resnet);
	params_close(tower->params);
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static double fma_loop_avx512(long rounds)
{
	__m512 sum[10], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
	float lanes[16];

	for (int i = 0; i < 10; i++)
		sum[i] = _mm512_set1_ps((float)i);
	for (long r = 0; r < rounds; r++)
		for (int i = 0; i < 10; i++)
			sum[i] = _mm512_fmadd_ps(sum[i], a, b);
	for (int i = 1; i < 10; i++)
		sum[0] = _mm512_add_ps(sum[0], sum[i]);
	_mm512_storeu_ps(lanes, sum[0]);
	return (double)lanes[0];
}

__attribute__((target("avx2,fma"))) static double fma_loop_avx2(long rounds)
{
	__m256 sum[10], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
	float lanes[8];

	for (int i = 0; i < 10; i++)
		sum[i] = _mm256_set1_ps((float)i);
	for (long r = 0; r < rounds; r++)
		for (int i = 0; i < 10; i++)
			sum[i] = _mm256_fmadd_ps(sum[i], a, b);
	for (int i = 1; i < 10; i++)
		sum[0] = _mm256_add_ps(sum[0], sum[i]);
	_mm256_storeu_ps(lanes, sum[0]);
	return (double)lanes[0];
}
#endif

enum { PEAK_ROUNDS = 4000000, PEAK_TRIES = 5, THREADS_MAX = 256 };

static void *fma_thread(void *sum)
{
#if defined(__x86_64__)
	*(double *)sum = __builtin_cpu_supports("avx512f") ? fma_loop_avx512(PEAK_ROUNDS) : fma_loop_avx2(PEAK_ROUNDS);
#endif
	return NULL;
}

/* GFLOP/s of all threads, best of a few tries; 0: no way to measure it here. */
static double fma_peak(int threads)
{
	double best = 0;
#if defined(__x86_64__)
	double flop = (double)threads * PEAK_ROUNDS * 10 * (__builtin_cpu_supports("avx512f") ? 32 : 16);

	for (int try = 0; try < PEAK_TRIES && threads <= THREADS_MAX; try++) {
		pthread_t thread[THREADS_MAX];
		double sums[THREADS_MAX], start = clock_seconds(), rate;
		int started = 0;

		while (started < threads && pthread_create(&thread[started], NULL, fma_thread, &sums[started]) == 0)
			started++;
		for (int i = 0; i < started; i++)
			pthread_join(thread[i], NULL);
		rate = flop / (clock_seconds() - start) * 1e-9;
		if (started == threads && rate > best)
			best = rate;
	}
#else
	(void)threads;
	(void)fma_thread;
#endif
	return best;
}

/* FLOP of one picture forward: 2 per multiplication of a weight. */
static double flop_forward(const struct params *params, const struct resnet_config *config)
{
	double flop = 0;

	for (int i = 0; i < params->count; i++) {
		const struct param *p = &params->all[i];
		int stage = 0, block = 0, conv = 0, side = (config->image_size + 1) / 2;
		char kind = 0;

		if (p->rank == 2) {
			flop += 2.0 * (double)p->count;
			continue;
		}
		if (p->rank != 4)
			continue;
		if (sscanf(p->name, "image_encoder.layer%d.%d.%c%*[a-z]%d", &stage, &block, &kind, &conv) >= 3) {
			side = (side + 1) / 2;
			for (int s = 1; s < stage; s++)
				if (s + 1 < stage || block > 0 || kind == 'd' || !config->bottleneck || conv > 1)
					side = (side + 1) / 2;
		}
		flop += 2.0 * (double)p->count * side * side;
	}
	return flop;
}

struct timing {
	double forward_s, step_s;
};

static double cpu_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void time_steps(struct tower *tower, const float *image, float *v, const float *dv, int batch, int steps,
		       struct timing *best)
{
	*best = (struct timing){ 1e9, 1e9 };
	for (int step = 0; step < steps + 2; step++) {
		double start = clock_seconds(), cpu = cpu_seconds(), middle, end;

		resnet_forward(tower->resnet, MODEL_TRAIN, image, false, batch, v);
		middle = clock_seconds();
		resnet_backward(tower->resnet, dv, NULL);
		end = clock_seconds();
		printf("step %2d: forward %.1f ms, backward %.1f ms, %.2f pictures/s, %.1f ms of processor time\n", step,
		       (middle - start) * 1e3, (end - middle) * 1e3, batch / (end - start), (cpu_seconds() - cpu) * 1e3);
		if (step < 2)
			continue;
		if (middle - start < best->forward_s)
			best->forward_s = middle - start;
		if (end - start < best->step_s)
			best->step_s = end - start;
	}
}

static void fill(float *x, size_t n)
{
	uint32_t state = 1;

	for (size_t i = 0; i < n; i++) {
		state = state * 1664525u + 1013904223u;
		x[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
	}
}

static int speed(char **argv, int argc)
{
	int size = atoi(argv[3]), batch = atoi(argv[4]), steps = atoi(argv[5]), threads, rc;
	struct resnet_config config;
	struct tower tower = { 0 };
	struct timing best;
	struct err err;
	size_t pixels = (size_t)batch * 3 * (size_t)size * (size_t)size;
	float *image = mem_aligned(pixels * sizeof(float)), *v = mem_aligned((size_t)batch * FEATURES * sizeof(float));
	float *dv = mem_aligned((size_t)batch * FEATURES * sizeof(float));
	double peak, forward, start;

	threads = kernels_set_threads(argc > 6 ? atoi(argv[6]) : 0);
	if (!arch_config(&config, argv[2], size) || !choose_kernels(&tower.kernels, argc > 7 ? argv[7] : "fast"))
		return 2;
	start = clock_seconds();
	rc = tower_open(&tower, &config, batch, true, &err);
	if (rc < 0) {
		fprintf(stderr, "bench_resnet: %s\n", err.message);
		tower_close(&tower);
		return 1;
	}
	printf("%s kernels, %d threads, planned in %.2f s\n", tower.kernels.image->name, threads, clock_seconds() - start);
	fill(image, pixels);
	fill(dv, (size_t)batch * FEATURES);
	peak = fma_peak(threads);
	time_steps(&tower, image, v, dv, batch, steps, &best);
	forward = flop_forward(tower.params, &config) * batch * 1e-9;
	printf("%s %d px, batch %d: %.2f pictures/s forward + backward, %.2f forward\n", argv[2], size, batch,
	       batch / best.step_s, batch / best.forward_s);
	/* The stem needs no input gradient, so the whole is a little less than three times forward. */
	printf("%.2f GFLOP a picture forward; %.0f of %.0f GFLOP/s (%.2f of the FMA peak); forward alone %.0f\n",
	       forward / batch, 3 * forward / best.step_s, peak, 3 * forward / best.step_s / peak, forward / best.forward_s);
	printf("activations and scratch memory: %.1f MB\n", (double)resnet_activation_bytes(tower.resnet, false) / 1e6);
	tower_close(&tower);
	mem_free(image);
	mem_free(v);
	mem_free(dv);
	return 0;
}

static int load(const struct tensorfile *file, struct params *params, struct err *err)
{
	for (int i = 0; i < params->count; i++) {
		struct param *p = &params->all[i];
		const struct tensor_view *view = tensorfile_find(file, p->name + PREFIX_BYTES);
		int rc;

		if (p->kind == PARAM_COUNTER)
			continue;
		if (view == NULL || (size_t)tensor_view_elements(view) != p->count)
			return err_set(err, ERR_MISMATCH, "%s: missing or of another shape", p->name);
		rc = tensor_to_f32(view, p->value, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static struct tensor_view f32_view(const char *name, int rank, const int64_t *shape, const float *data)
{
	struct tensor_view view = { .name = name, .dtype = TENSOR_F32, .rank = rank, .data = data, .bytes = sizeof(float) };

	for (int i = 0; i < rank; i++) {
		view.shape[i] = shape[i];
		view.bytes *= (size_t)shape[i];
	}
	return view;
}

static int save(const char *path, const struct params *params, int batch, int size, const float *v, const float *dimage,
		struct err *err)
{
	static struct tensor_view views[PARAMS_MAX + 2];
	static char names[PARAMS_MAX][PARAM_NAME_BYTES + 8];
	int count = 0;

	views[count++] = f32_view("v", 2, (int64_t[]){ batch, FEATURES }, v);
	views[count++] = f32_view("dimage", 4, (int64_t[]){ batch, 3, size, size }, dimage);
	for (int i = 0; i < params->count; i++) {
		const struct param *p = &params->all[i];

		if (p->kind == PARAM_COUNTER)
			continue;
		snprintf(names[i], sizeof(names[i]), "%s%s", p->name + PREFIX_BYTES, p->grad != NULL ? ".grad" : "");
		views[count++] = f32_view(names[i], p->rank, p->shape, p->grad != NULL ? p->grad : p->value);
	}
	return tensorfile_write(path, views, count, NULL, 0, err);
}

static int run_once(struct tower *tower, const struct resnet_config *config, const struct tensorfile *file, const char *mode,
		    const char *path, struct err *err)
{
	const struct tensor_view *image_view = tensorfile_find(file, "image"), *dv_view = tensorfile_find(file, "dv");
	bool inference = strcmp(mode, "inference") == 0;
	float *image = NULL, *dv = NULL, *v = NULL, *dimage = NULL;
	int batch, rc;

	if (image_view == NULL || dv_view == NULL)
		return err_set(err, ERR_NOTFOUND, "image or dv is missing");
	batch = (int)image_view->shape[0];
	image = mem_aligned((size_t)tensor_view_elements(image_view) * sizeof(float));
	dimage = mem_zalloc((size_t)tensor_view_elements(image_view) * sizeof(float));
	dv = mem_aligned((size_t)tensor_view_elements(dv_view) * sizeof(float));
	v = mem_aligned((size_t)tensor_view_elements(dv_view) * sizeof(float));
	rc = tower_open(tower, config, batch, !inference, err);
	if (rc == 0)
		rc = load(file, tower->params, err);
	if (rc == 0)
		rc = tensor_to_f32(image_view, image, err);
	if (rc == 0)
		rc = tensor_to_f32(dv_view, dv, err);
	if (rc < 0)
		goto out;
	resnet_forward(tower->resnet,
		       strcmp(mode, "train") == 0 ? MODEL_TRAIN :
		       strcmp(mode, "keep") == 0  ? MODEL_TRAIN_KEEP :
						    MODEL_EVAL,
		       image, false, batch, v);
	if (!inference)
		resnet_backward(tower->resnet, dv, dimage);
	rc = save(path, tower->params, batch, config->image_size, v, dimage, err);
out:
	mem_free(image);
	mem_free(dimage);
	mem_free(dv);
	mem_free(v);
	return rc;
}

static int run(char **argv, int argc)
{
	struct resnet_config config;
	struct tower tower = { 0 };
	struct tensorfile *file = NULL;
	struct err err;
	int rc;

	kernels_set_threads(argc > 8 ? atoi(argv[8]) : 0);
	if (!arch_config(&config, argv[2], atoi(argv[3])) || !choose_kernels(&tower.kernels, argv[5]))
		return 2;
	rc = tensorfile_open(&file, argv[6], &err);
	if (rc == 0)
		rc = run_once(&tower, &config, file, argv[4], argv[7], &err);
	if (rc < 0)
		fprintf(stderr, "bench_resnet: %s\n", err.message);
	tower_close(&tower);
	tensorfile_close(file);
	return rc < 0;
}

int main(int argc, char **argv)
{
	kernels_settle_process(argv);
	log_setup("bench_resnet", LOG_INFO, 0);
	if (argc >= 6 && strcmp(argv[1], "speed") == 0)
		return speed(argv, argc);
	if (argc >= 8 && strcmp(argv[1], "run") == 0)
		return run(argv, argc);
	fprintf(stderr, "usage: bench_resnet speed ARCH SIZE BATCH STEPS [THREADS [KERNELS]]\n"
			"       bench_resnet run ARCH SIZE MODE KERNELS IN.safetensors OUT.safetensors [THREADS]\n");
	return 2;
}
