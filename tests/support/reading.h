/*
 * reading.h - caption files and pictures in a folder of their own, read as
 * `prepctl add` has them read; for the tests of preprocessd/dataset/.
 *
 * One thread, one reading at a time. What cannot be done fails the running
 * cmocka test.
 */
#ifndef TESTS_SUPPORT_READING_H
#define TESTS_SUPPORT_READING_H

#include <stdbool.h>
#include <stdint.h>

#include "preprocessd/dataset/manifest.h"
#include "preprocessd/dataset/rights.h"
#include "tests/support/scratch.h"

struct request {
	const char *format;
	const char *captions[4], *images[4]; /* relative to the scratch folder, also behind SPLIT= */
	const char *columns, *ratio;
	uint64_t seed, limit, limit_seed;
	bool skip;
	const struct rights *rights;
	const char *fails[4]; /* base names of pictures that do not decode */
};

/* A test's own: each begins with an empty folder and no listing. */
#define READING_TEST(name) cmocka_unit_test_setup_teardown(name, reading_setup, reading_teardown)
extern struct scratch scratch;
extern struct listing *last_listing; /* of the last reading */
int reading_setup(void **state);
int reading_teardown(void **state);

/* A path in the scratch folder, also behind SPLIT=; a few calls may be used in one expression. */
const char *in_scratch(const char *text);
/* Names apart by blanks. A picture is any file: reading does not decode. Its content is its name. */
void pictures(const char *names);
/* i/0.jpg, i/1.jpg, ... and a c.csv of two captions for each. */
void many_pictures(int count);

int try_read(const struct request *request, struct manifest **out, struct err *err);
/* The caller frees what it gets. */
struct manifest *read_manifest(const struct request *request);
/* want: "a.jpg/train: one | two; b.jpg/val#0=label: three" */
void gives(const struct request *request, const char *want);
void refuses(const struct request *request, int want_code, const char *want);
bool note_says(const char *text);
uint32_t count_split(const struct manifest *m, const char *name);

/* Of a file in the scratch folder or elsewhere: paths as they are, pictures taken as they stand. */
struct manifest *read_real(const char *format, const char *captions, const char *images);
/* A data set below shared_data(); the test is skipped where it is absent. */
void check_real(const char *format, const char *captions, const char *images, uint32_t want_pictures, uint32_t want_captions);

#endif
