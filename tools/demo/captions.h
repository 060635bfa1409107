/*
 * captions.h - sentences about a scene, in several phrasings, all of them true.
 *
 * Not every sentence says everything: like people's captions they differ in
 * what they mention (size, place, background, number). Many also say who took
 * the picture and where, which nobody can see in it: a model that learns that
 * by heart gets better on the pictures it knows and worse on others.
 */
#ifndef TOOLS_DEMO_CAPTIONS_H
#define TOOLS_DEMO_CAPTIONS_H

#include "tools/demo/scene.h"

enum { CAPTION_BYTES_MAX = 256 };

/* One caption into out. */
void caption_write(const struct scene *scene, struct draw *draw, char out[CAPTION_BYTES_MAX]);

#endif
