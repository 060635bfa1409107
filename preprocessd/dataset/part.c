#include <stdio.h>
#include <string.h>

#include "preprocessd/dataset/manifest.h"
#include "shared/base/mem.h"

static int unknown_split(const struct manifest *manifest, const char *name, size_t bytes, struct err *err)
{
	char names[300] = "";
	size_t used = 0;

	for (uint32_t i = 0; i < manifest->split_count && used < sizeof(names) - 1; i++)
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i > 0 ? ", " : "", manifest->split_name[i]);
	return err_set(err, ERR_NOTFOUND, "no split \"%.*s\"; this data set has %s (also joined by '+', and \"all\")",
		       (int)(bytes > 80 ? 80 : bytes), name, names);
}

/* Bit i of *out: split i is meant. */
static int parse_splits(const struct manifest *manifest, const char *split, uint64_t *out, struct err *err)
{
	const char *at = split;

	*out = 0;
	if (strcmp(split, "all") == 0) {
		*out = UINT64_MAX;
		return 0;
	}
	for (;;) {
		size_t bytes = strcspn(at, "+");
		uint32_t i = 0;

		while (i < manifest->split_count &&
		       (strlen(manifest->split_name[i]) != bytes || memcmp(manifest->split_name[i], at, bytes) != 0))
			i++;
		if (i == manifest->split_count)
			return unknown_split(manifest, at, bytes, err);
		*out |= (uint64_t)1 << i;
		if (at[bytes] == '\0')
			return 0;
		at += bytes + 1;
	}
}

static bool is_in(const struct manifest *manifest, uint32_t picture, uint64_t splits)
{
	return (splits >> manifest->picture_split[picture] & 1) != 0;
}

int manifest_part_open(struct manifest_part **out, const struct manifest *manifest, const char *split, struct err *err)
{
	struct manifest_part *part = NULL;
	uint32_t pictures = 0, captions = 0;
	uint64_t splits;
	int code = parse_splits(manifest, split, &splits, err);

	*out = NULL;
	if (code != 0)
		return code;
	for (uint32_t p = 0; p < manifest->picture_count; p++) {
		if (!is_in(manifest, p, splits))
			continue;
		pictures++;
		captions += manifest->captions_of_at[p + 1] - manifest->captions_of_at[p];
	}
	if (pictures == 0)
		return err_set(err, ERR_MISMATCH, "the split \"%.80s\" has no pictures", split);
	if ((part = mem_zalloc(sizeof(*part))) == NULL)
		return err_nomem(err, sizeof(*part));
	part->pictures = mem_array(pictures, sizeof(*part->pictures));
	part->captions = mem_array((size_t)captions + 1, sizeof(*part->captions));
	if (part->pictures == NULL || part->captions == NULL) {
		manifest_part_free(part);
		return err_nomem(err, captions * sizeof(*part->captions));
	}
	for (uint32_t p = 0; p < manifest->picture_count; p++)
		if (is_in(manifest, p, splits))
			part->pictures[part->picture_count++] = p;
	for (uint32_t c = 0; c < manifest->caption_count; c++)
		if (is_in(manifest, manifest->caption_picture[c], splits))
			part->captions[part->caption_count++] = c;
	*out = part;
	return 0;
}

void manifest_part_free(struct manifest_part *part)
{
	if (part == NULL)
		return;
	mem_free(part->pictures);
	mem_free(part->captions);
	mem_free(part);
}
