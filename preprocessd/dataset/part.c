#include <stdio.h>
#include <string.h>

#include "preprocessd/dataset/fold.h"
#include "shared/base/mem.h"

static int unknown_split(const struct manifest *manifest, const char *name, size_t bytes, struct err *err)
{
	char names[300] = "";
	size_t used = 0;

	for (uint32_t i = 0; i < manifest->split_count && used < sizeof(names) - 1; i++)
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i > 0 ? ", " : "", manifest->split_name[i]);
	if (bytes == 3 && memcmp(name, "all", 3) == 0)
		return err_set(err, ERR_NOTFOUND, "\"all\" is every split and joined to none; this data set has %s", names);
	return err_set(err, ERR_NOTFOUND, "no split \"%.*s\"; this data set has %s (also joined by '+', \"all\", and folds of them as in "
		       "all~fold=1/5 and all~rest=1/5)",
		       (int)(bytes > 80 ? 80 : bytes), name, names);
}

/* Bit i of *out: split i is meant. */
static int parse_splits(const struct manifest *manifest, const char *split, size_t length, uint64_t *out, struct err *err)
{
	const char *at = split, *end = split + length;

	*out = 0;
	if (length == 3 && memcmp(split, "all", 3) == 0) {
		*out = UINT64_MAX;
		return 0;
	}
	for (;;) {
		const char *plus = memchr(at, '+', (size_t)(end - at));
		size_t bytes = (size_t)((plus == NULL ? end : plus) - at);
		uint32_t i = 0;

		while (i < manifest->split_count &&
		       (strlen(manifest->split_name[i]) != bytes || memcmp(manifest->split_name[i], at, bytes) != 0))
			i++;
		if (i == manifest->split_count)
			return unknown_split(manifest, at, bytes, err);
		*out |= (uint64_t)1 << i;
		if (plus == NULL)
			return 0;
		at = plus + 1;
	}
}

/* Leaves the pictures of the fold, or those of the others. */
static int keep_fold(const struct manifest *manifest, struct manifest_part *part, const struct fold_spec *spec, struct err *err)
{
	uint16_t *fold_of = mem_array(part->picture_count, sizeof(*fold_of));
	uint32_t kept = 0;
	int code;

	if (fold_of == NULL)
		return err_nomem(err, part->picture_count * sizeof(*fold_of));
	code = fold_assign(manifest, part->pictures, part->picture_count, spec, fold_of, err);
	for (uint32_t i = 0; i < part->picture_count && code == 0; i++)
		if ((fold_of[i] == spec->index) != spec->rest)
			part->pictures[kept++] = part->pictures[i];
	part->picture_count = kept;
	mem_free(fold_of);
	return code;
}

static int list_captions(const struct manifest *manifest, struct manifest_part *part, struct err *err)
{
	uint8_t *in = mem_array((size_t)manifest->picture_count + 1, 1);
	uint32_t captions = 0;

	for (uint32_t i = 0; i < part->picture_count; i++)
		captions += manifest->captions_of_at[part->pictures[i] + 1] - manifest->captions_of_at[part->pictures[i]];
	part->captions = mem_array((size_t)captions + 1, sizeof(*part->captions));
	if (in == NULL || part->captions == NULL) {
		mem_free(in);
		return err_nomem(err, captions * sizeof(*part->captions));
	}
	for (uint32_t i = 0; i < part->picture_count; i++)
		in[part->pictures[i]] = 1;
	for (uint32_t c = 0; c < manifest->caption_count; c++)
		if (in[manifest->caption_picture[c]])
			part->captions[part->caption_count++] = c;
	mem_free(in);
	return 0;
}

int manifest_part_open(struct manifest_part **out, const struct manifest *manifest, const char *split, struct err *err)
{
	struct manifest_part *part = NULL;
	struct fold_chain folds;
	size_t base_bytes;
	uint64_t splits;
	int code;

	*out = NULL;
	if ((code = fold_parse(split, &folds, &base_bytes, err)) != 0 ||
	    (code = parse_splits(manifest, split, base_bytes, &splits, err)) != 0)
		return code;
	if ((part = mem_zalloc(sizeof(*part))) == NULL)
		return err_nomem(err, sizeof(*part));
	part->pictures = mem_array((size_t)manifest->picture_count + 1, sizeof(*part->pictures));
	if (part->pictures == NULL) {
		code = err_nomem(err, manifest->picture_count * sizeof(*part->pictures));
		goto out;
	}
	for (uint32_t p = 0; p < manifest->picture_count; p++)
		if ((splits >> manifest->picture_split[p] & 1) != 0)
			part->pictures[part->picture_count++] = p;
	if (part->picture_count == 0) {
		code = err_set(err, ERR_MISMATCH, "the split \"%.80s\" has no pictures", split);
		goto out;
	}
	for (int i = 0; i < folds.count; i++)
		if ((code = keep_fold(manifest, part, &folds.cut[i], err)) != 0)
			goto out;
	code = list_captions(manifest, part, err);
out:
	if (code != 0) {
		manifest_part_free(part);
		part = NULL;
	}
	*out = part;
	return code;
}

void manifest_part_free(struct manifest_part *part)
{
	if (part == NULL)
		return;
	mem_free(part->pictures);
	mem_free(part->captions);
	mem_free(part);
}
