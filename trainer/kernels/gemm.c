#include "trainer/kernels/gemm.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/check.h"
#include "trainer/kernels/gemm_pack.h"

enum {
	ROWS = GEMM_TILE_ROWS,
	M_BLOCK = GEMM_M_BLOCK,
	N_BLOCK = GEMM_N_BLOCK,
	M_STRIP_MIN = 8 * ROWS,
	M_STRIP_MAX = 2 * M_BLOCK,
	N_STRIP_MIN = 4 * GEMM_PANEL,
	STRIPS_PER_THREAD = 2,
	IN_PLACE_FLOATS = 768,      /* of a row: where rows are further apart, or two to a page, they meet in few places of the caches */
	IN_PLACE_ROWS = 4 * M_BLOCK,
	PART_TERMS_MIN = 3072,      /* of k: a part's result is written and added up once for so many */
	PART_RESULT_MAX = 160000,   /* elements: results of parts should stay in cache */
};

/* Products of fewer multiply-adds are done before a team is awake. */
static const double TEAM_MIN = 250000;

/* Of the time with fewer strips of parts: more must come below it. */
static const double STRIP_WORTH = 0.9;

static _Alignas(64) float a_blocks[GEMM_THREADS_MAX][GEMM_A_FLOATS];
static _Alignas(64) float b_blocks[GEMM_THREADS_MAX][N_BLOCK / GEMM_PANEL * (GEMM_K_BLOCK + 1) * GEMM_PANEL];

/* What one piece of work covers; k_first .. k_last, in words, is all of k unless it is cut into parts. */
struct piece {
	size_t m_first, m_last, n_first, n_last, k_first, k_last;
};

static size_t round_up(size_t a, size_t step)
{
	return (a + step - 1) / step * step;
}

static const struct gemm_tiles *chosen_tiles;

const struct gemm_tiles *gemm_tiles(void)
{
	if (chosen_tiles == NULL)
		chosen_tiles = gemm_tiles_avx512();
	if (chosen_tiles == NULL)
		chosen_tiles = gemm_tiles_avx2();
	return chosen_tiles;
}

void gemm_use_tiles(const struct gemm_tiles *tiles)
{
	chosen_tiles = tiles;
}

bool gemm_is_chosen(void)
{
	static int chosen = -1;

	if (chosen < 0) {
		const char *wish = getenv("TRAINER_KERNELS");

		chosen = gemm_tiles() != NULL && !(wish != NULL && strcmp(wish, "libraries") == 0);
	}
	return chosen;
}

bool gemm_bf16_is_chosen(void)
{
	return gemm_is_chosen() && gemm_tiles_bf16() != NULL;
}

static const struct gemm_tiles *tiles_of(const struct gemm *g)
{
	return g->bf16 ? gemm_tiles_bf16() : gemm_tiles();
}

/* k as tiles count it. */
static size_t words_of(const struct gemm *g, size_t elements)
{
	return g->bf16 ? share_of(elements, 2) : elements;
}

static size_t elements_of(const struct gemm *g, size_t words)
{
	return g->bf16 ? 2 * words : words;
}

static size_t floats_of(const struct gemm *g, size_t elements)
{
	return g->bf16 ? elements / 2 : elements;
}

/* Where rows m_first .. m_last of c begin. */
static void place_rows(const struct gemm *g, size_t m_first, size_t m_last, float **rows)
{
	const struct gemm_pixels *p = g->pixels;

	if (p == NULL) {
		for (size_t m = m_first; m < m_last; m++)
			*rows++ = g->c + m * g->ldc;
		return;
	}
	struct cursor at = cursor_at(m_first, g->windows.grid_height, g->windows.grid_width);

	for (size_t m = m_first; m < m_last; m++) {
		size_t y = (size_t)(at.y * p->step + p->first_y), x = (size_t)(at.x * p->step + p->first_x);

		*rows++ = g->c + ((at.picture * (size_t)p->height + y) * (size_t)p->width + x) * g->ldc;
		cursor_next(&at, g->windows.grid_height, g->windows.grid_width);
	}
}

typedef void block_function(const struct gemm_block *block, const float *a, const float *b, float *const *rows, size_t column);

/* A block at the edge of c, by way of one that has all rows and columns. */
static void edge_block(block_function *function, const struct gemm_block *block, const float *a, const float *b, float *const *rows,
		       size_t height, size_t column, size_t width)
{
	enum { TALL = GEMM_BLOCK_TALL * ROWS, WIDE = GEMM_BLOCK_WIDE * GEMM_PANEL };
	_Alignas(64) float whole[TALL * WIDE];
	float *whole_rows[TALL];
	struct gemm_block alone = *block;

	alone.add = false;
	for (size_t r = 0; r < TALL; r++)
		whole_rows[r] = whole + r * WIDE;
	function(&alone, a, b, whole_rows, 0);
	for (size_t r = 0; r < height; r++)
		for (size_t n = 0; n < width; n++)
			rows[r][column + n] = block->add ? rows[r][column + n] + whole_rows[r][n] : whole_rows[r][n];
}

/* Rows of memory that will be wanted: packed next, or read next from panels. Rows without gaps are one. */
struct region {
	const float *from; /* of the row that is asked for now */
	size_t rows, line, ld;
	size_t at;         /* floats of this row that have been asked for */
	size_t most;       /* with one block */
};

static struct region region_of(const float *from, size_t rows, size_t line, size_t ld)
{
	struct region region = { .from = from, .rows = rows, .line = line, .ld = ld };

	if (line == ld) {
		region.line *= rows;
		region.rows = rows > 0;
	}
	return region;
}

/* From now on so much at a time that `blocks` ask for all of it. */
static void share_region(struct region *r, size_t blocks, size_t depth)
{
	size_t left = r->rows * r->line - r->at;

	r->most = min_of(round_up(share_of(left, blocks), 16), depth * GEMM_ASK_STEP_MAX);
}

/* What one block asks for; `nothing` is at hand anyway. */
static struct gemm_ask next_ask(struct region *r, size_t depth, const float *nothing)
{
	size_t count = min_of(r->line - r->at, r->most);
	struct gemm_ask ask = { r->from + r->at, share_of(count, depth) };

	if (r->rows == 0)
		return (struct gemm_ask){ nothing, 0 };
	r->at += count;
	if (r->at == r->line) {
		r->at = 0;
		r->from += r->ld;
		r->rows--;
	}
	return ask;
}

/* `count` elements of so many lines of an operand, from element `first` of line `line` on. Nothing more than asking depends on it. */
static struct region source_region(const struct gemm *g, const void *operand, size_t line, size_t first, size_t lines, size_t count, size_t ld)
{
	return region_of((const float *)operand + floats_of(g, line * ld + first), lines, floats_of(g, count), floats_of(g, ld));
}

/* What gemm_pack_b() will read for columns n .. n + width, words k .. k + depth of b. A window's new pixels are about those of its last line. */
static struct region b_region(const struct gemm *g, size_t n, size_t width, size_t k, size_t depth)
{
	const struct gemm_windows *w = &g->windows;
	struct cursor at;
	size_t line, y;

	k = elements_of(g, k);
	if (g->b_form == GEMM_PANELS || depth == 0)
		return region_of(g->b, 0, 0, 0);
	depth = elements_of(g, depth);
	if (g->b_form == GEMM_COLUMNS)
		return source_region(g, g->b, n, k, width, depth, g->ldb);
	if (g->b_form == GEMM_ROWS)
		return source_region(g, g->b, k, n, depth, width, g->ldb);
	at = cursor_at(k, w->grid_height, w->grid_width);
	line = (size_t)w->width * (size_t)w->channels;
	y = (size_t)(at.y * w->step + (w->first_y + w->taps_y > 0 ? w->first_y + w->taps_y - 1 : 0));
	return source_region(g, g->b, at.picture * (size_t)w->height + y, (size_t)(at.x * w->step * w->channels), n == 0,
			     depth * (size_t)w->channels * (size_t)w->step * (size_t)w->step, line);
}

/* What gemm_pack_a() will read of columns of the whole piece, as they lie ... */
static struct region a_columns_region(const struct gemm *g, const struct piece *p, size_t k, size_t depth)
{
	if (g->a_form != GEMM_COLUMNS)
		depth = 0;
	return source_region(g, g->a, elements_of(g, k), p->m_first, elements_of(g, depth), p->m_last - p->m_first, g->lda);
}

/* ... and of rows from m on. */
static struct region a_rows_region(const struct gemm *g, size_t m, size_t count, size_t k, size_t depth)
{
	return source_region(g, g->a, m, elements_of(g, k), depth > 0 ? count : 0, elements_of(g, depth), g->lda);
}

/* Columns of b as blocks read them. */
struct panels {
	const float *from;
	size_t apart, step;
};

/* c's rows x columns n .. n + width, from packed blocks; the first panel of b holds column n. */
static void multiply_blocks(const struct gemm *g, const float *a, struct panels b, size_t depth, float *const *rows, size_t height, size_t n,
			    size_t width, bool add, struct region *next_a, struct region *next_b)
{
	const struct gemm_tiles *tiles = tiles_of(g);
	size_t tall_most = tiles->tall * ROWS, wide_most = tiles->wide * GEMM_PANEL;
	size_t down = share_of(height, tall_most), blocks = down * share_of(width, wide_most);
	bool columns = g->a_form == GEMM_COLUMNS;
	block_function *function = columns ? tiles->by_columns : tiles->by_rows;
	size_t tile_floats = columns ? gemm_columns_apart(depth) : (size_t)ROWS * GEMM_ROW_FLOATS;
	struct gemm_block block = { .a_apart = tile_floats, .a_step = ROWS, .b_apart = b.apart, .b_step = b.step, .depth = depth, .add = add };

	if (g->bf16) {
		block.a_apart = tile_floats = ROWS;
		block.a_step = GEMM_PAIRS_STEP;
	}
	share_region(next_a, blocks, depth);
	share_region(next_b, blocks, depth);
	for (size_t j = 0, wide; j < width; j += wide, b.from += block.wide * b.apart) {
		const float *from = a;
		struct region panels;

		wide = min_of(width - j, wide_most);
		block.wide = share_of(wide, GEMM_PANEL);
		panels = region_of(b.from + block.wide * b.apart, block.wide, depth * GEMM_PANEL, b.apart);
		share_region(&panels, down, depth);
		for (size_t i = 0, tall; i < height; i += tall, from += block.tall * tile_floats) {
			tall = min_of(height - i, tall_most);
			block.tall = share_of(tall, ROWS);
			block.ask[0] = next_ask(g->b_form == GEMM_PANELS ? &panels : next_b, depth, from);
			block.ask[1] = next_ask(next_a, depth, from);
			if (tall == block.tall * ROWS && wide == block.wide * GEMM_PANEL)
				function(&block, from, b.from, rows + i, n + j);
			else
				edge_block(function, &block, from, b.from, rows + i, tall, n + j, wide);
		}
	}
}

/* Rows of b can be read where they lie. Not by many rows of a: packed, a panel stays in the first-level cache for all of them. */
static bool is_read_in_place(const struct gemm *g, size_t rows, size_t width)
{
	return g->b_form == GEMM_ROWS && !g->bf16 && width % GEMM_PANEL == 0 && g->ldb <= IN_PLACE_FLOATS && rows <= IN_PLACE_ROWS;
}

/* Columns n .. n + width, rows k .. k + depth of b, which meet `rows` rows of a; packed into memory where they have to be. */
static struct panels panels_of(const struct gemm *g, size_t rows, size_t n, size_t width, size_t k, size_t depth, float *memory)
{
	size_t apart = gemm_panel_floats(g->b_form == GEMM_PANELS ? g->k : depth);
	const float *b = g->b;

	if (g->b_form == GEMM_PANELS)
		return (struct panels){ b + n / GEMM_PANEL * apart + k * GEMM_PANEL, apart, GEMM_PANEL };
	if (is_read_in_place(g, rows, width))
		return (struct panels){ b + k * g->ldb + n, GEMM_PANEL, g->ldb };
	gemm_pack_b(g, n, width, k, depth, apart, memory);
	return (struct panels){ memory, apart, GEMM_PANEL };
}

static void multiply_piece(const struct gemm *g, const struct piece *p)
{
	int thread = omp_get_thread_num();
	size_t terms = p->k_last - p->k_first, step = share_of(terms, share_of(terms, GEMM_K_BLOCK));
	size_t rows_all = p->m_last - p->m_first, m_step;
	float *a = a_blocks[thread], *rows[M_BLOCK];

	if (rows_all == 0)
		return;
	m_step = round_up(share_of(rows_all, share_of(rows_all, M_BLOCK)), tiles_of(g)->tall * ROWS);
	for (size_t n = p->n_first, width; n < p->n_last; n += width) {
		width = min_of(p->n_last - n, N_BLOCK);
		for (size_t k = p->k_first; k < p->k_last; k += step) {
			size_t depth = min_of(step, p->k_last - k), next_depth = min_of(step, p->k_last - k - depth);
			struct panels b = panels_of(g, rows_all, n, width, k, depth, b_blocks[thread]);
			struct region next_b = next_depth > 0 ? b_region(g, n, width, k + depth, next_depth) :
								b_region(g, n + width, min_of(p->n_last - n - width, N_BLOCK), p->k_first,
									 n + width < p->n_last ? step : 0);
			struct region next_a = a_columns_region(g, p, k + depth, next_depth);

			for (size_t m = p->m_first, height; m < p->m_last; m += height) {
				bool last;

				height = min_of(p->m_last - m, m_step);
				last = m + height == p->m_last;
				gemm_pack_a(g, m, m + height, k, depth, a);
				place_rows(g, m, m + height, rows);
				if (g->a_form == GEMM_ROWS && last)
					next_a = a_rows_region(g, p->m_first, min_of(rows_all, m_step), k + depth, next_depth);
				else if (g->a_form == GEMM_ROWS)
					next_a = a_rows_region(g, m + height, min_of(p->m_last - m - height, m_step), k, depth);
				multiply_blocks(g, a, b, depth, rows, height, n, width, g->add || k > p->k_first, &next_a, &next_b);
			}
		}
	}
}

/* Into how many pieces c is cut, along which side. */
struct cut {
	size_t m_pieces, n_pieces;
};

/* A few for each thread, unless they would be short; as many for one thread as for another. */
static size_t pieces_of(size_t all, size_t shortest, size_t longest, size_t threads)
{
	size_t pieces = min_of(threads * STRIPS_PER_THREAD, share_of(all, shortest)), least = share_of(all, longest);

	if (pieces < least)
		pieces = least;
	return pieces > threads ? round_up(pieces, threads) : pieces;
}

/* Panels are there already: any strip of rows is as good as another. Otherwise each strip packs the other operand anew, so that
 * there should be few; they go along the longer side. */
static struct cut cut_of(const struct gemm *g, size_t threads)
{
	if (g->b_form == GEMM_PANELS)
		return (struct cut){ pieces_of(g->m, M_STRIP_MIN, M_STRIP_MAX, threads), 1 };
	if (threads == 1)
		return (struct cut){ 1, 1 };
	if (g->m >= g->n)
		return (struct cut){ pieces_of(g->m, M_STRIP_MIN, g->m, threads), 1 };
	return (struct cut){ 1, pieces_of(g->n, N_STRIP_MIN, g->n, threads) };
}

/* How long a team works on all parts, each cut into strips; one thread on one part: 1. */
static double turns_of(size_t parts, size_t strips, size_t team)
{
	return (double)share_of(parts * strips, team) / (double)strips;
}

/* Parts are cut as well where much of a team would have none. Not for little: each strip packs the other operand anew. */
static struct cut cut_of_parts(const struct gemm *g, size_t parts, size_t team)
{
	bool rows = g->m >= g->n;
	size_t most = rows ? share_of(g->m, M_STRIP_MIN) : share_of(g->n, N_STRIP_MIN), strips = 1;

	for (size_t more = 2; more <= most; more++)
		if (turns_of(parts, more, team) < STRIP_WORTH * turns_of(parts, strips, team))
			strips = more;
	return rows ? (struct cut){ strips, 1 } : (struct cut){ 1, strips };
}

/* Where piece i begins: pieces are whole blocks, and none has more than one block more than another. */
static size_t piece_first(size_t all, size_t block, size_t pieces, size_t i)
{
	return min_of(share_of(all, block) * i / pieces * block, all);
}

/* Piece i of those into which c is cut. */
static struct piece piece_of(const struct gemm *g, struct cut cut, size_t i)
{
	size_t tall = tiles_of(g)->tall * ROWS, wide = tiles_of(g)->wide * GEMM_PANEL, m = i % cut.m_pieces, n = i / cut.m_pieces;

	return (struct piece){ piece_first(g->m, tall, cut.m_pieces, m), piece_first(g->m, tall, cut.m_pieces, m + 1),
			       piece_first(g->n, wide, cut.n_pieces, n), piece_first(g->n, wide, cut.n_pieces, n + 1), 0, words_of(g, g->k) };
}

static int team_of(const struct gemm *g, int threads)
{
	if ((double)g->m * (double)g->n * (double)g->k < TEAM_MIN || threads < 1)
		return 1;
	return threads < GEMM_THREADS_MAX ? threads : GEMM_THREADS_MAX;
}

static void clear(const struct gemm *g)
{
	float *rows[M_BLOCK];

	for (size_t m = 0, count; m < g->m; m += count) {
		count = min_of(g->m - m, M_BLOCK);
		place_rows(g, m, m + count, rows);
		for (size_t i = 0; i < count; i++)
			memset(rows[i], 0, g->n * sizeof(*rows[i]));
	}
}

void gemm_run(const struct gemm *g, int threads)
{
	int team = team_of(g, threads);
	struct cut cut;

	CHECK(tiles_of(g) != NULL);
	if (g->m == 0 || g->n == 0)
		return;
	if (g->k == 0) {
		if (!g->add)
			clear(g);
		return;
	}
	cut = cut_of(g, (size_t)team);
#pragma omp parallel for schedule(dynamic, 1) num_threads(team) if (cut.m_pieces * cut.n_pieces > 1)
	for (size_t i = 0; i < cut.m_pieces * cut.n_pieces; i++) {
		struct piece piece = piece_of(g, cut, i);

		multiply_piece(g, &piece);
	}
}

int gemm_parts(size_t m, size_t n, size_t k)
{
	size_t parts = m * n <= PART_RESULT_MAX ? k / PART_TERMS_MIN : 1;

	return parts < 1 ? 1 : (int)min_of(parts, GEMM_PARTS_MAX);
}

void gemm_run_parts(const struct gemm *g, int parts, float *results, int threads)
{
	int team = team_of(g, threads);
	size_t count = (size_t)parts, strips;
	struct gemm whole = *g;
	struct cut cut;

	CHECK(tiles_of(g) != NULL && parts >= 1 && parts <= GEMM_PARTS_MAX && g->pixels == NULL);
	whole.c = results;
	whole.ldc = g->n;
	whole.add = false;
	if (parts == 1) {
		gemm_run(&whole, threads);
		return;
	}
	cut = cut_of_parts(g, count, (size_t)team);
	strips = cut.m_pieces * cut.n_pieces;
#pragma omp parallel for schedule(dynamic, 1) num_threads(team)
	for (size_t i = 0; i < count * strips; i++) {
		size_t part = i / strips;
		struct piece piece = piece_of(g, cut, i % strips);
		struct gemm one = whole;

		one.c += part * g->m * g->n;
		piece.k_first = words_of(g, g->k) * part / count;
		piece.k_last = words_of(g, g->k) * (part + 1) / count;
		multiply_piece(&one, &piece);
	}
}

void gemm_pack_panels(enum gemm_form form, const float *b, size_t ldb, size_t k, size_t n, float *panels, int threads)
{
	struct gemm g = { .k = k, .n = n, .b_form = form, .b = b, .ldb = ldb };
	size_t apart = gemm_panel_floats(k);

#pragma omp parallel for schedule(static) num_threads(threads)
	for (size_t panel = 0; panel < share_of(n, GEMM_PANEL); panel++)
		gemm_pack_b(&g, panel * GEMM_PANEL, min_of(n - panel * GEMM_PANEL, GEMM_PANEL), 0, k, apart, panels + panel * apart);
}
