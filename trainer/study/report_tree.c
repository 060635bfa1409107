#include "trainer/study/report_tree.h"

#include <math.h>
#include <string.h>

#include "shared/base/args.h"
#include "shared/base/fs.h"
#include "shared/base/mem.h"

enum { BLOCK_BYTES = 64 << 10 };

struct tree_block {
	struct tree_block *next;
	size_t used, size;
	char bytes[];
};

static void *take(struct tree *tree, size_t bytes, struct err *err)
{
	struct tree_block *block = tree->blocks;
	size_t need = size_round_up(bytes, sizeof(void *));

	if (block == NULL || block->size - block->used < need) {
		size_t size = need > BLOCK_BYTES ? need : BLOCK_BYTES;

		block = mem_zalloc(sizeof(*block) + size);
		if (block == NULL) {
			err_nomem(err, size);
			return NULL;
		}
		block->size = size;
		block->next = tree->blocks;
		tree->blocks = block;
	}
	void *p = block->bytes + block->used;
	block->used += need;
	return p;
}

static int copy_text(struct tree *tree, const char **out, const struct buf *text, struct err *err)
{
	char *copy = take(tree, text->size + 1, err);

	if (copy == NULL)
		return ERR_NOMEM;
	if (text->size > 0)
		memcpy(copy, text->data, text->size);
	copy[text->size] = '\0';
	*out = copy;
	return 0;
}

static int node_new(struct tree *tree, struct json_reader *reader, struct tree_node **out, struct err *err)
{
	if (++tree->nodes > TREE_NODES_MAX)
		return json_fail(reader, err, "more than %d values", TREE_NODES_MAX);
	*out = take(tree, sizeof(**out), err);
	return *out == NULL ? ERR_NOMEM : 0;
}

/* The value whose first event was just read. Depth is bounded by the parser. */
static int read_value(struct tree *tree, struct json_reader *reader, struct tree_node **out, struct err *err)
{
	struct tree_node *node = NULL, **tail;
	int code = node_new(tree, reader, &node, err);

	if (code != 0)
		return code;
	*out = node;
	node->kind = reader->kind;
	tail = &node->child;
	switch (reader->kind) {
	case JSON_STRING:
		/* A zero byte would end the text early: what is compared must be what was written. */
		if (memchr(reader->text.data, '\0', reader->text.size) != NULL)
			return json_fail(reader, err, "a text with a zero character");
		return copy_text(tree, &node->text, &reader->text, err);
	case JSON_NUMBER:
		code = json_real(reader, &node->number, err);
		return code != 0 ? code : copy_text(tree, &node->text, &reader->text, err);
	case JSON_OBJECT_BEGIN:
	case JSON_ARRAY_BEGIN:
		break;
	default:
		return 0;
	}
	for (;;) {
		const char *key = NULL;

		if ((code = json_next(reader, err)) != 0)
			return code;
		if (reader->kind == JSON_OBJECT_END || reader->kind == JSON_ARRAY_END)
			return 0;
		if (reader->kind == JSON_KEY && ((code = copy_text(tree, &key, &reader->text, err)) != 0 || (code = json_next(reader, err)) != 0))
			return code;
		if ((code = read_value(tree, reader, tail, err)) != 0)
			return code;
		(*tail)->key = key;
		tail = &(*tail)->next;
		node->count++;
	}
}

int tree_read(struct tree *out, const char *path, struct err *err)
{
	struct buf content = BUF_INIT;
	struct json_reader reader;
	int code;

	*out = (struct tree){ .path = mem_strdup(path) };
	if (out->path == NULL)
		return err_nomem(err, strlen(path));
	if ((code = fs_read(path, TREE_BYTES_MAX, &content, err)) != 0)
		goto out;
	json_reader_init(&reader, path, content.data, content.size);
	if ((code = json_next(&reader, err)) == 0 && (code = read_value(out, &reader, &out->root, err)) == 0)
		code = json_expect(&reader, JSON_END, err);
	json_reader_free(&reader);
	if (code == 0 && out->root->kind != JSON_OBJECT_BEGIN)
		code = err_set(err, ERR_FORMAT, "%s: not a JSON object", path);
out:
	buf_free(&content);
	if (code != 0)
		tree_free(out);
	return code;
}

void tree_free(struct tree *tree)
{
	if (tree == NULL)
		return;
	while (tree->blocks != NULL) {
		struct tree_block *next = tree->blocks->next;

		mem_free(tree->blocks);
		tree->blocks = next;
	}
	mem_free(tree->path);
	*tree = (struct tree){ NULL };
}

static const char *kind_name(enum json_kind kind)
{
	switch (kind) {
	case JSON_OBJECT_BEGIN:
		return "an object";
	case JSON_ARRAY_BEGIN:
		return "a list";
	case JSON_STRING:
		return "a text";
	case JSON_NUMBER:
		return "a number";
	case JSON_TRUE:
	case JSON_FALSE:
		return "true or false";
	default:
		return "null";
	}
}

const struct tree_node *tree_get(const struct tree_node *object, const char *key)
{
	const struct tree_node *found = NULL;

	if (object == NULL || object->kind != JSON_OBJECT_BEGIN)
		return NULL;
	for (const struct tree_node *n = object->child; n != NULL; n = n->next)
		if (strcmp(n->key, key) == 0)
			found = n;
	return found != NULL && found->kind == JSON_NULL ? NULL : found;
}

int tree_branch(const struct tree *tree, const struct tree_node *object, const char *key, enum json_kind kind,
		const struct tree_node **out, struct err *err)
{
	const struct tree_node *node = tree_get(object, key);

	*out = NULL;
	if (node != NULL && node->kind != kind)
		return err_set(err, ERR_FORMAT, "%s: \"%s\" is %s, expected %s", tree->path, key, kind_name(node->kind), kind_name(kind));
	*out = node;
	return 0;
}

int tree_text(const struct tree *tree, const struct tree_node *object, const char *key, const char **out, struct err *err)
{
	const struct tree_node *node;
	int code = tree_branch(tree, object, key, JSON_STRING, &node, err);

	*out = node != NULL ? node->text : NULL;
	return code;
}

int tree_need_text(const struct tree *tree, const struct tree_node *object, const char *key, const char **out, struct err *err)
{
	int code = tree_text(tree, object, key, out, err);

	if (code == 0 && *out == NULL)
		code = err_set(err, ERR_FORMAT, "%s: \"%s\" is missing", tree->path, key);
	return code;
}

int tree_real(const struct tree *tree, const struct tree_node *object, const char *key, double *out, struct err *err)
{
	const struct tree_node *node;
	int code = tree_branch(tree, object, key, JSON_NUMBER, &node, err);

	*out = node != NULL ? node->number : NAN;
	return code;
}

bool tree_whole(const struct tree_node *node, int64_t *out)
{
	if (node->kind != JSON_NUMBER)
		return false;
	if (args_parse_int(node->text, 0, INT64_MAX, out, NULL) == 0)
		return true;
	if (!(node->number >= 0 && node->number <= 9007199254740992.0) || node->number != floor(node->number))
		return false;
	*out = (int64_t)node->number;
	return true;
}

int tree_count(const struct tree *tree, const struct tree_node *object, const char *key, int64_t *out, struct err *err)
{
	const struct tree_node *node;
	int code = tree_branch(tree, object, key, JSON_NUMBER, &node, err);

	*out = -1;
	if (code == 0 && node != NULL && !tree_whole(node, out))
		return err_set(err, ERR_FORMAT, "%s: \"%s\" is %.40s, expected a whole number", tree->path, key, node->text);
	return code;
}
