#include "tests/support/reading.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/fs.h"

struct scratch scratch;
struct listing *last_listing;

int reading_setup(void **state)
{
	(void)state;
	scratch_open(&scratch);
	return 0;
}

int reading_teardown(void **state)
{
	(void)state;
	listing_free(last_listing);
	last_listing = NULL;
	scratch_close(&scratch);
	return 0;
}

const char *in_scratch(const char *text)
{
	static char paths[8][1200];
	static int next;
	char *out = paths[next++ % 8];
	const char *equals = strchr(text, '=');
	int prefix = equals == NULL ? 0 : (int)(equals + 1 - text);

	snprintf(out, sizeof(paths[0]), "%.*s%s/%s", prefix, text, scratch.path, text + prefix);
	return out;
}

static bool should_fail(const struct request *request, const char *path)
{
	for (int i = 0; i < 4 && request->fails[i] != NULL; i++)
		if (strcmp(strrchr(path, '/') + 1, request->fails[i]) == 0)
			return true;
	return false;
}

static void open_pictures(struct listing *listing, const struct request *request)
{
	struct err err = { .code = ERR_FORMAT, .message = "not a JPEG" };

	for (uint32_t i = 0; i < listing_picture_count(listing); i++) {
		struct buf bytes = BUF_INIT;
		struct hash hash;
		const char *path = listing_picture_path(listing, i);

		if (should_fail(request, path)) {
			assert_int_equal(listing_set_failure(listing, i, &err), 0);
			continue;
		}
		assert_int_equal(fs_read(path, 1 << 20, &bytes, NULL), 0);
		hash_bytes(&hash, bytes.data == NULL ? "" : bytes.data, bytes.size);
		listing_set_hash(listing, i, &hash);
		buf_free(&bytes);
	}
}

int try_read(const struct request *request, struct manifest **out, struct err *err)
{
	struct reader_options options = { .format = request->format, .columns = request->columns, .split_ratio = request->ratio,
					  .split_seed = request->seed, .skip_bad = request->skip, .rights = request->rights, .limit = request->limit,
					  .limit_seed = request->limit_seed };
	const char *captions[4], *images[4];

	*out = NULL;
	for (; options.caption_count < 4 && request->captions[options.caption_count] != NULL; options.caption_count++)
		captions[options.caption_count] = in_scratch(request->captions[options.caption_count]);
	for (; options.image_count < 4 && request->images[options.image_count] != NULL; options.image_count++)
		images[options.image_count] = in_scratch(request->images[options.image_count]);
	options.captions = captions;
	options.images = images;
	listing_free(last_listing);
	assert_int_equal(listing_open(&last_listing, err), 0);
	int code = listing_read(last_listing, &options, err);
	if (code != 0)
		return code;
	open_pictures(last_listing, request);
	return listing_finish(last_listing, out, err);
}

struct manifest *read_manifest(const struct request *request)
{
	struct manifest *manifest;
	struct err err = { 0 };

	if (try_read(request, &manifest, &err) != 0)
		fail_msg("%s", err.message);
	return manifest;
}

void refuses(const struct request *request, int want_code, const char *want)
{
	struct manifest *manifest;
	struct err err = { 0 };
	int code = try_read(request, &manifest, &err);

	if (code == 0)
		fail_msg("accepted, but should say: %s", want);
	if (code != want_code || strstr(err.message, want) == NULL)
		fail_msg("got %s \"%s\", want %s \"%s\"", err_name(code), err.message, err_name(want_code), want);
	if (strlen(err.message) >= ERR_MESSAGE_BYTES - 1)
		fail_msg("message too long: %s", err.message);
}

static void describe(const struct manifest *m, char *out, size_t size)
{
	size_t used = 0;

	out[0] = '\0';
	for (uint32_t p = 0; p < m->picture_count; p++) {
		const char *path = m->source_text + m->source_at[p];

		used += (size_t)snprintf(out + used, size - used, "%s%s/%s", p > 0 ? "; " : "", strrchr(path, '/') + 1,
					 m->split_name[m->picture_split[p]]);
		if (m->picture_label[p] >= 0)
			used += (size_t)snprintf(out + used, size - used, "#%d=%s", m->picture_label[p],
						 m->label_name[m->picture_label[p]]);
		for (uint32_t k = m->captions_of_at[p]; k < m->captions_of_at[p + 1]; k++) {
			uint32_t c = m->captions_of[k];

			used += (size_t)snprintf(out + used, size - used, "%s%.*s", k == m->captions_of_at[p] ? ": " : " | ",
						 (int)(m->caption_at[c + 1] - m->caption_at[c]), m->caption_text + m->caption_at[c]);
		}
	}
}

void gives(const struct request *request, const char *want)
{
	struct manifest *manifest = read_manifest(request);
	char got[4000];

	describe(manifest, got, sizeof(got));
	assert_string_equal(got, want);
	manifest_free(manifest);
}

bool note_says(const char *text)
{
	for (uint32_t i = 0; i < listing_note_count(last_listing); i++)
		if (strstr(listing_note_at(last_listing, i), text) != NULL)
			return true;
	return false;
}

uint32_t count_split(const struct manifest *m, const char *name)
{
	uint32_t count = 0;

	for (uint32_t p = 0; p < m->picture_count; p++)
		count += strcmp(m->split_name[m->picture_split[p]], name) == 0;
	return count;
}

void pictures(const char *names)
{
	char copy[2000], *rest = copy, *name;

	snprintf(copy, sizeof(copy), "%s", names);
	while ((name = strsep(&rest, " ")) != NULL)
		scratch_text(&scratch, name, name);
}

void many_pictures(int count)
{
	struct buf csv = BUF_INIT;
	struct err err;

	for (int i = 0; i < count; i++) {
		char name[32];

		snprintf(name, sizeof(name), "i/%d.jpg", i);
		scratch_text(&scratch, name, name);
		assert_int_equal(buf_printf(&csv, &err, "%d.jpg,a\n%d.jpg,b\n", i, i), 0);
	}
	scratch_write(&scratch, "c.csv", csv.data, csv.size);
	buf_free(&csv);
}

struct manifest *read_real(const char *format, const char *captions, const char *images)
{
	struct reader_options options = { .format = format, .captions = &captions, .caption_count = 1, .images = &images, .image_count = 1 };
	struct manifest *manifest;
	struct err err;

	listing_free(last_listing);
	assert_int_equal(listing_open(&last_listing, &err), 0);
	if (listing_read(last_listing, &options, &err) != 0)
		fail_msg("%s", err.message);
	/* opening is the business of others: the path stands for the content */
	for (uint32_t i = 0; i < listing_picture_count(last_listing); i++) {
		struct hash hash;
		const char *path = listing_picture_path(last_listing, i);

		hash_bytes(&hash, path, strlen(path));
		listing_set_hash(last_listing, i, &hash);
	}
	if (listing_finish(last_listing, &manifest, &err) != 0)
		fail_msg("%s", err.message);
	return manifest;
}

void check_real(const char *format, const char *captions, const char *images, uint32_t want_pictures, uint32_t want_captions)
{
	char captions_path[1200], images_path[1200];

	if (shared_data(captions) == NULL || shared_data(images) == NULL)
		skip();
	snprintf(captions_path, sizeof(captions_path), "%s", shared_data(captions));
	snprintf(images_path, sizeof(images_path), "%s", shared_data(images));
	struct manifest *m = read_real(format, captions_path, images_path);
	assert_int_equal(m->picture_count, want_pictures);
	assert_int_equal(m->caption_count, want_captions);
	manifest_free(m);
}
