#include "trainer/study/flat.h"

#include <stdio.h>
#include <string.h>

#include "shared/base/args.h"
#include "shared/base/fs.h"
#include "shared/base/json.h"
#include "shared/base/mem.h"

#define FILE_BYTES_MAX ((size_t)4 << 20)

static int add(struct flat *flat, const char *path, const struct json_reader *r, struct err *err)
{
	if (flat->count == FLAT_MAX)
		return err_set(err, ERR_LIMIT, "%s: more than %d values", r->name, FLAT_MAX);
	flat->all[flat->count].text = mem_strndup(r->text.data == NULL ? "" : r->text.data, r->text.size);
	if (flat->all[flat->count].text == NULL)
		return err_nomem(err, r->text.size);
	snprintf(flat->all[flat->count++].path, FLAT_PATH_BYTES, "%s", path);
	return 0;
}

int flat_parse(struct flat *out, const char *name, const void *data, size_t size, struct err *err)
{
	char path[FLAT_PATH_BYTES] = "";
	size_t ends[JSON_DEPTH_MAX + 1] = { 0 }; /* length of the path at each depth */
	int depth = 0, code;
	struct json_reader r;

	out->count = 0;
	json_reader_init(&r, name, data, size);
	code = json_expect(&r, JSON_OBJECT_BEGIN, err);
	while (code == 0) {
		if ((code = json_next(&r, err)) != 0)
			break;
		if (r.kind == JSON_OBJECT_END) {
			if (depth-- == 0)
				break;
			continue;
		}
		size_t used = ends[depth];
		if (used + r.text.size + 2 > sizeof(path)) {
			code = json_skip(&r, err); /* nothing that is looked for has so long a name */
			continue;
		}
		snprintf(path + used, sizeof(path) - used, "%s%s", used > 0 ? "." : "", r.text.data == NULL ? "" : r.text.data);
		if ((code = json_next(&r, err)) != 0)
			break;
		if (r.kind == JSON_OBJECT_BEGIN)
			ends[++depth] = strlen(path);
		else if (r.kind == JSON_STRING || r.kind == JSON_NUMBER)
			code = add(out, path, &r, err);
		else if (r.kind == JSON_ARRAY_BEGIN)
			for (int open = 1; open > 0 && (code = json_next(&r, err)) == 0;)
				open += (r.kind == JSON_ARRAY_BEGIN) - (r.kind == JSON_ARRAY_END);
	}
	json_reader_free(&r);
	if (code != 0)
		flat_free(out);
	return code;
}

int flat_read(struct flat *out, const char *path, struct err *err)
{
	struct buf content = BUF_INIT;
	int code;

	out->count = 0;
	if ((code = fs_read(path, FILE_BYTES_MAX, &content, err)) == 0)
		code = flat_parse(out, path, content.data, content.size, err);
	buf_free(&content);
	return code;
}

void flat_free(struct flat *flat)
{
	for (int i = 0; i < flat->count; i++)
		mem_free(flat->all[i].text);
	flat->count = 0;
}

const char *flat_text(const struct flat *flat, const char *path)
{
	for (int i = 0; i < flat->count; i++)
		if (strcmp(flat->all[i].path, path) == 0)
			return flat->all[i].text;
	return NULL;
}

bool flat_real(const struct flat *flat, const char *path, double *out)
{
	const char *text = flat_text(flat, path);

	return text != NULL && args_parse_real(text, out, NULL) == 0;
}

bool flat_int(const struct flat *flat, const char *path, int64_t *out)
{
	const char *text = flat_text(flat, path);

	return text != NULL && args_parse_int(text, INT64_MIN, INT64_MAX, out, NULL) == 0;
}
