#include "tools/demo/scene.h"

#include <math.h>
#include <stddef.h>

const char *const SHAPE_NAMES[SHAPE_COUNT] = { "circle", "square", "triangle", "star", "ring", "cross", "diamond", "moon" };
const char *const COLOR_NAMES[COLOR_COUNT] = { "red", "green", "blue", "yellow", "purple", "orange", "white", "black" };
const char *const GROUND_NAMES[GROUND_COUNT] = { "plain", "shaded", "striped", "checked", "rough" };

static const uint8_t COLOR_RGB[COLOR_COUNT][3] = {
	{ 208, 36, 40 }, { 40, 160, 60 }, { 40, 80, 208 }, { 236, 212, 48 },
	{ 140, 50, 170 }, { 240, 136, 30 }, { 246, 246, 244 }, { 22, 22, 26 },
};

enum { RNG_DEMO = 0x4000, PLACE_TRIES_MAX = 200 };
static const float PI_F = 3.14159265f;

void draw_init(struct draw *draw, uint64_t seed, uint32_t picture)
{
	draw->key = rng_key(seed, RNG_DEMO);
	draw->picture = picture;
	draw->n = 0;
}

float draw_unit(struct draw *draw)
{
	return rng_unit(rng_philox(draw->key, draw->n++, draw->picture, 0, 0).v[0]);
}

float draw_between(struct draw *draw, float low, float high)
{
	return low + (high - low) * draw_unit(draw);
}

uint32_t draw_below(struct draw *draw, uint32_t n)
{
	struct rng_block block = rng_philox(draw->key, draw->n++, draw->picture, 0, 0);

	return (uint32_t)rng_below(block.v[0], block.v[1], n);
}

static uint8_t clamp_u8(float value)
{
	return value < 0.0f ? 0 : value > 255.0f ? 255 : (uint8_t)(value + 0.5f);
}

/* --- what is in the picture ---------------------------------------------- */

static void draw_looks(struct scene_object *object, struct draw *draw)
{
	float light = draw_between(draw, 0.85f, 1.12f);

	object->shape = draw_below(draw, SHAPE_COUNT);
	object->color = draw_below(draw, COLOR_COUNT);
	for (int c = 0; c < 3; c++)
		object->rgb[c] = clamp_u8((float)COLOR_RGB[object->color][c] * light + draw_between(draw, -14.0f, 14.0f));
	/* A square turned by 45 degrees would be a diamond. */
	object->angle = draw_between(draw, -0.3f, 0.3f);
}

static bool is_free(const struct scene *scene, int placed, const struct scene_object *object)
{
	for (int i = 0; i < placed; i++) {
		const struct scene_object *other = &scene->objects[i];

		if (hypotf(other->x - object->x, other->y - object->y) < other->radius + object->radius + 0.02f)
			return false;
	}
	return true;
}

static bool place(const struct scene *scene, int placed, struct scene_object *object, struct draw *draw)
{
	float side = (float)(scene->width < scene->height ? scene->width : scene->height);
	float right = (float)scene->width / side, bottom = (float)scene->height / side;

	object->radius = object->large ? draw_between(draw, 0.25f, 0.34f) : draw_between(draw, 0.11f, 0.15f);
	for (int i = 0; i < PLACE_TRIES_MAX; i++) {
		object->x = draw_between(draw, object->radius, right - object->radius);
		object->y = draw_between(draw, object->radius, bottom - object->radius);
		if (is_free(scene, placed, object))
			return true;
	}
	return false;
}

static void draw_ground(struct scene *scene, struct draw *draw)
{
	/* Dull colors, so that the shapes' names for colors stay true. */
	float base = draw_between(draw, 90.0f, 185.0f);

	scene->ground = draw_below(draw, GROUND_COUNT);
	for (int c = 0; c < 3; c++) {
		float tint = base + draw_between(draw, -16.0f, 16.0f);
		float second = tint + draw_between(draw, -30.0f, 30.0f);

		scene->ground_rgb[0][c] = clamp_u8(tint);
		scene->ground_rgb[1][c] = clamp_u8(second);
	}
	scene->ground_scale = draw_between(draw, 0.06f, 0.22f);
	scene->ground_angle = draw_between(draw, 0.0f, PI_F);
	scene->noise = draw_between(draw, 1.0f, 14.0f);
	scene->texture_seed = draw_below(draw, 1u << 30);
}

void scene_draw(struct scene *out, struct draw *draw)
{
	static const int COUNT_OF_TEN[10] = { 1, 1, 1, 1, 1, 2, 2, 2, 2, 3 };
	int wanted = COUNT_OF_TEN[draw_below(draw, 10)];

	*out = (struct scene){ 0 };
	out->width = SCENE_SIDE_MIN + (int)draw_below(draw, SCENE_SIDE_MAX - SCENE_SIDE_MIN + 1);
	out->height = (int)((float)out->width * draw_between(draw, 0.75f, 1.3f));
	if (out->height < SCENE_SIDE_MIN)
		out->height = SCENE_SIDE_MIN;
	if (out->height > SCENE_SIDE_MAX)
		out->height = SCENE_SIDE_MAX;
	draw_ground(out, draw);
	out->person = draw_below(draw, SCENE_PERSONS);
	out->place = draw_below(draw, SCENE_PLACES);
	for (int i = 0; i < wanted; i++) {
		struct scene_object *object = &out->objects[out->object_count];

		draw_looks(object, draw);
		/* Large ones first: they are the hard ones to place. */
		object->large = i == 0 ? draw_unit(draw) < 0.9f : out->objects[i - 1].large && draw_unit(draw) < 0.25f;
		if (!place(out, out->object_count, object, draw))
			break;
		out->object_count++;
	}
}

/* --- painting it --------------------------------------------------------- */

/* u, v in units of the radius, upright. */
static bool in_star(float u, float v)
{
	/* Between the tip at radius 1 and the dent at 0.45 the edge is straight. */
	const float dent = 0.45f, half = PI_F / 5.0f;
	float turn = fabsf(fmodf(atan2f(u, -v) + 2.0f * PI_F + half, 2.0f * half) - half);
	float ax = 1.0f, bx = dent * cosf(half), by = dent * sinf(half);
	float r = hypotf(u, v), px = r * cosf(turn), py = r * sinf(turn);

	return (bx - ax) * py - by * (px - ax) >= 0.0f;
}

static bool in_shape(enum scene_shape shape, float u, float v)
{
	float r2 = u * u + v * v;

	switch (shape) {
	case SHAPE_CIRCLE: return r2 < 0.92f;
	case SHAPE_SQUARE: return fabsf(u) < 0.82f && fabsf(v) < 0.82f;
	case SHAPE_TRIANGLE: return v < 0.72f && fabsf(u) * 1.75f < v + 0.95f;
	case SHAPE_STAR: return in_star(u, v);
	case SHAPE_RING: return r2 < 0.96f && r2 > 0.36f;
	case SHAPE_CROSS: return (fabsf(u) < 0.28f && fabsf(v) < 0.95f) || (fabsf(v) < 0.28f && fabsf(u) < 0.95f);
	case SHAPE_DIAMOND: return fabsf(u) * 1.45f + fabsf(v) < 1.0f;
	case SHAPE_MOON: return r2 < 0.96f && (u - 0.45f) * (u - 0.45f) + (v + 0.1f) * (v + 0.1f) > 0.62f;
	default: return false;
	}
}

static float lattice(uint32_t seed, int x, int y)
{
	uint32_t h = seed ^ ((uint32_t)x * 0x9E3779B1u) ^ ((uint32_t)y * 0x85EBCA77u);

	h ^= h >> 15;
	h *= 0x2C1B3C6Du;
	h ^= h >> 12;
	h *= 0x297A2D39u;
	h ^= h >> 15;
	return rng_unit(h);
}

/* Smooth noise: lattice values, interpolated. */
static float value_noise(uint32_t seed, float x, float y)
{
	int xi = (int)floorf(x), yi = (int)floorf(y);
	float fx = x - (float)xi, fy = y - (float)yi;
	float top, bottom;

	fx = fx * fx * (3.0f - 2.0f * fx);
	fy = fy * fy * (3.0f - 2.0f * fy);
	top = lattice(seed, xi, yi) * (1.0f - fx) + lattice(seed, xi + 1, yi) * fx;
	bottom = lattice(seed, xi, yi + 1) * (1.0f - fx) + lattice(seed, xi + 1, yi + 1) * fx;
	return top * (1.0f - fy) + bottom * fy;
}

/* How much of the second ground color is at a place: 0..1. */
static float ground_mix(const struct scene *scene, float x, float y)
{
	float along = x * cosf(scene->ground_angle) + y * sinf(scene->ground_angle);
	float across = y * cosf(scene->ground_angle) - x * sinf(scene->ground_angle);
	float period = scene->ground_scale;

	switch (scene->ground) {
	case GROUND_SHADED: return 0.5f + 0.5f * along;
	case GROUND_STRIPED: return fmodf(along / period + 100.0f, 2.0f) < 1.0f ? 1.0f : 0.0f;
	case GROUND_CHECKED: return ((int)floorf(along / period) + (int)floorf(across / period)) & 1 ? 1.0f : 0.0f;
	case GROUND_ROUGH: return 0.65f * value_noise(scene->texture_seed, x / period, y / period) +
				  0.35f * value_noise(scene->texture_seed + 1, 3.0f * x / period, 3.0f * y / period);
	default: return 0.0f;
	}
}

/* The object at a place, or NULL. */
static const struct scene_object *object_at(const struct scene *scene, float x, float y, float *height)
{
	for (int i = 0; i < scene->object_count; i++) {
		const struct scene_object *object = &scene->objects[i];
		float dx = (x - object->x) / object->radius, dy = (y - object->y) / object->radius;

		if (fabsf(dx) > 1.5f || fabsf(dy) > 1.5f)
			continue;
		if (!in_shape(object->shape, dx * cosf(object->angle) + dy * sinf(object->angle),
			      dy * cosf(object->angle) - dx * sinf(object->angle)))
			continue;
		*height = dy;
		return object;
	}
	return NULL;
}

static void paint_pixel(const struct scene *scene, float x, float y, float pixel, float rgb[3])
{
	float mix = ground_mix(scene, x, y);
	float height = 0.0f;

	mix = mix < 0.0f ? 0.0f : mix > 1.0f ? 1.0f : mix;
	for (int c = 0; c < 3; c++)
		rgb[c] = (float)scene->ground_rgb[0][c] * (1.0f - mix) + (float)scene->ground_rgb[1][c] * mix;
	float ground[3] = { rgb[0], rgb[1], rgb[2] };

	/* Four samples a pixel soften the edges. */
	for (int s = 0; s < 4; s++) {
		const struct scene_object *object = object_at(scene, x + pixel * (s & 1 ? 0.25f : -0.25f),
							      y + pixel * (s & 2 ? 0.25f : -0.25f), &height);

		for (int c = 0; c < 3 && object != NULL; c++)
			rgb[c] += 0.25f * ((float)object->rgb[c] * (1.0f - 0.08f * height) - ground[c]);
	}
}

void scene_render(const struct scene *scene, uint8_t *rgb)
{
	float side = (float)(scene->width < scene->height ? scene->width : scene->height);

	for (int py = 0; py < scene->height; py++) {
		for (int px = 0; px < scene->width; px++) {
			float grain = (lattice(scene->texture_seed + 7, px, py) - 0.5f) * 2.0f * scene->noise;
			float color[3];

			paint_pixel(scene, ((float)px + 0.5f) / side, ((float)py + 0.5f) / side, 1.0f / side, color);
			for (int c = 0; c < 3; c++)
				*rgb++ = clamp_u8(color[c] + grain);
		}
	}
}
