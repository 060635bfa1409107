#include "tools/demo/captions.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/check.h"

static const char *const OPENINGS[] = {
	"", "", "", "a picture of ", "this photo shows ", "look: ", "we can see ", "in this image there is ", "someone painted ",
};
static const char *const PERSONS[SCENE_PERSONS] = {
	"anna", "ben", "clara", "david", "emma", "felix", "greta", "henry", "ida", "jonas", "karla", "leo", "mara", "nils", "olga", "paul",
	"rosa", "simon", "tessa", "ugo", "vera", "walter", "xenia", "yann", "zoe", "amir", "bella", "carlo", "dora", "edgar", "fiona", "gustav",
};
static const char *const PLACES[SCENE_PLACES] = {
	"oslo", "paris", "rome", "vienna", "prague", "berlin", "madrid", "lisbon", "dublin", "athens", "warsaw", "zurich", "geneva", "porto",
	"milan", "naples", "turin", "lyon", "nantes", "bergen", "malmo", "turku", "riga", "tallinn", "vilnius", "krakow", "brno", "graz", "linz",
	"basel", "bern", "ghent",
};

static const char *pick(struct draw *draw, const char *const *list, size_t count)
{
	return list[draw_below(draw, (uint32_t)count)];
}

static void add(char out[CAPTION_BYTES_MAX], const char *format, ...) PRINTF_LIKE(2, 3);
static void add(char out[CAPTION_BYTES_MAX], const char *format, ...)
{
	size_t used = strlen(out);
	va_list args;

	va_start(args, format);
	vsnprintf(out + used, CAPTION_BYTES_MAX - used, format, args);
	va_end(args);
}

static const char *article(const char *next)
{
	return strchr("aeiou", next[0]) ? "an" : "a";
}

/* "a small red circle", the size only sometimes. */
static void add_object(char out[CAPTION_BYTES_MAX], const struct scene_object *object, struct draw *draw)
{
	static const char *const LARGE[] = { "large", "big", "huge" };
	static const char *const SMALL[] = { "small", "little", "tiny" };
	const char *color = COLOR_NAMES[object->color], *shape = SHAPE_NAMES[object->shape];

	if (draw_unit(draw) < 0.45f)
		add(out, "a %s %s %s", object->large ? pick(draw, LARGE, 3) : pick(draw, SMALL, 3), color, shape);
	else
		add(out, "%s %s %s", article(color), color, shape);
}

static const char *relation(const struct scene_object *a, const struct scene_object *b, struct draw *draw)
{
	static const char *const LEFT[] = { "left of", "to the left of" };
	static const char *const RIGHT[] = { "right of", "to the right of" };
	static const char *const ABOVE[] = { "above", "over" };
	static const char *const BELOW[] = { "below", "under" };
	float dx = b->x - a->x, dy = b->y - a->y;

	if (fabsf(dx) > fabsf(dy))
		return dx > 0.0f ? pick(draw, LEFT, 2) : pick(draw, RIGHT, 2);
	return dy > 0.0f ? pick(draw, ABOVE, 2) : pick(draw, BELOW, 2);
}

static const char *place_name(const struct scene *scene, const struct scene_object *object)
{
	float side = (float)(scene->width < scene->height ? scene->width : scene->height);
	float x = object->x * side / (float)scene->width, y = object->y * side / (float)scene->height;

	if (fabsf(x - 0.5f) < 0.12f && fabsf(y - 0.5f) < 0.12f)
		return "in the middle";
	if (fabsf(x - 0.5f) > fabsf(y - 0.5f))
		return x < 0.5f ? "on the left" : "on the right";
	return y < 0.5f ? "at the top" : "at the bottom";
}

static void describe_one(char out[CAPTION_BYTES_MAX], const struct scene *scene, struct draw *draw)
{
	const struct scene_object *only = &scene->objects[0];

	switch (draw_below(draw, 4)) {
	case 0:
		add_object(out, only, draw);
		break;
	case 1:
		add_object(out, only, draw);
		add(out, " %s", place_name(scene, only));
		break;
	case 2:
		add(out, "one %s in %s", SHAPE_NAMES[only->shape], COLOR_NAMES[only->color]);
		break;
	default:
		add(out, "a single %s %s", COLOR_NAMES[only->color], SHAPE_NAMES[only->shape]);
		break;
	}
}

static void describe_several(char out[CAPTION_BYTES_MAX], const struct scene *scene, struct draw *draw)
{
	static const char *const NUMBERS[] = { "no", "one", "two", "three" };
	uint32_t first = draw_below(draw, (uint32_t)scene->object_count);
	uint32_t second = (first + 1 + draw_below(draw, (uint32_t)scene->object_count - 1)) % (uint32_t)scene->object_count;
	const struct scene_object *a = &scene->objects[first], *b = &scene->objects[second];

	switch (draw_below(draw, 4)) {
	case 0:
		add_object(out, a, draw);
		add(out, " %s ", relation(a, b, draw));
		add_object(out, b, draw);
		break;
	case 1:
		add(out, "%s shapes: ", NUMBERS[scene->object_count]);
		for (int i = 0; i < scene->object_count; i++) {
			add(out, "%s", i == 0 ? "" : i + 1 == scene->object_count ? " and " : ", ");
			add_object(out, &scene->objects[i], draw);
		}
		break;
	case 2:
		add_object(out, a, draw);
		add(out, " next to ");
		add_object(out, b, draw);
		break;
	default:
		add_object(out, a, draw);
		add(out, " %s, %s ", place_name(scene, a), draw_unit(draw) < 0.5f ? "with" : "and also");
		add_object(out, b, draw);
		break;
	}
}

void caption_write(const struct scene *scene, struct draw *draw, char out[CAPTION_BYTES_MAX])
{
	out[0] = '\0';
	add(out, "%s", pick(draw, OPENINGS, sizeof(OPENINGS) / sizeof(*OPENINGS)));
	if (scene->object_count == 1)
		describe_one(out, scene, draw);
	else
		describe_several(out, scene, draw);
	if (draw_unit(draw) < 0.3f)
		add(out, " on a %s background", GROUND_NAMES[scene->ground]);
	if (draw_unit(draw) < 0.35f)
		add(out, ", %s %s", draw_unit(draw) < 0.5f ? "by" : "taken by", PERSONS[scene->person]);
	if (draw_unit(draw) < 0.35f)
		add(out, " in %s", PLACES[scene->place]);
	if (draw_unit(draw) < 0.4f) {
		if (out[0] >= 'a' && out[0] <= 'z')
			out[0] = (char)(out[0] - 'a' + 'A');
		add(out, ".");
	}
}
