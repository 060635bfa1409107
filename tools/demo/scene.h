/*
 * scene.h - made-up pictures for the demo: a few colored shapes on a background.
 *
 * A scene is drawn at random from (seed, picture number) alone, so the same
 * numbers give the same file on every machine. Positions and sizes are
 * fractions of the picture's shorter side; x grows to the right, y downward.
 *
 * Threads:   pure functions; a scene is a plain value.
 * Limits:    SCENE_OBJECTS_MAX shapes, SCENE_SIDE_MAX pixels a side.
 */
#ifndef TOOLS_DEMO_SCENE_H
#define TOOLS_DEMO_SCENE_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/rng.h"

enum { SCENE_OBJECTS_MAX = 3, SCENE_SIDE_MIN = 96, SCENE_SIDE_MAX = 288 };

enum scene_shape { SHAPE_CIRCLE, SHAPE_SQUARE, SHAPE_TRIANGLE, SHAPE_STAR, SHAPE_RING, SHAPE_CROSS, SHAPE_DIAMOND, SHAPE_MOON, SHAPE_COUNT };
enum scene_color { COLOR_RED, COLOR_GREEN, COLOR_BLUE, COLOR_YELLOW, COLOR_PURPLE, COLOR_ORANGE, COLOR_WHITE, COLOR_BLACK, COLOR_COUNT };
enum scene_ground { GROUND_PLAIN, GROUND_SHADED, GROUND_STRIPED, GROUND_CHECKED, GROUND_ROUGH, GROUND_COUNT };

enum { SCENE_PERSONS = 32, SCENE_PLACES = 32 };

extern const char *const SHAPE_NAMES[SHAPE_COUNT];
extern const char *const COLOR_NAMES[COLOR_COUNT];
extern const char *const GROUND_NAMES[GROUND_COUNT];

/* Random numbers by name: draw n of picture p under a key. */
struct draw {
	struct rng_key key;
	uint32_t picture, n;
};
void draw_init(struct draw *draw, uint64_t seed, uint32_t picture);
float draw_unit(struct draw *draw);                       /* [0, 1) */
float draw_between(struct draw *draw, float low, float high);
uint32_t draw_below(struct draw *draw, uint32_t n);

struct scene_object {
	enum scene_shape shape;
	enum scene_color color;
	bool large;
	float x, y;      /* center */
	float radius;
	float angle;     /* radians */
	uint8_t rgb[3];  /* the color as painted, near its name */
};

struct scene {
	int width, height;              /* pixels */
	int object_count;               /* 1..SCENE_OBJECTS_MAX, largest first, none overlaps another */
	struct scene_object objects[SCENE_OBJECTS_MAX];
	enum scene_ground ground;
	uint8_t ground_rgb[2][3];
	float ground_scale, ground_angle;
	float noise;                    /* of each pixel, in 0..255 */
	uint32_t texture_seed;
	uint32_t person, place;         /* who took it and where: said in captions, not to be seen */
};

void scene_draw(struct scene *out, struct draw *draw);
/* rgb: (height, width, 3) */
void scene_render(const struct scene *scene, uint8_t *rgb);

#endif
