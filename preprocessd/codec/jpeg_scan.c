#include "preprocessd/codec/jpeg_scan.h"

#include <string.h>

#include <jerror.h>

/* Debian's package has libjpeg's internals, others may not. Release 3 keeps the
 * same places for what is used here, but has not been tested. */
#if defined(LIBJPEG_TURBO_VERSION_NUMBER) && LIBJPEG_TURBO_VERSION_NUMBER < 3000000 && BITS_IN_JSAMPLE == 8 && \
	defined(__has_include)
#if __has_include(<jpegint.h>)
#define HAVE_INTERNALS 1
#include <jpegint.h>
#endif
#endif

#ifdef HAVE_INTERNALS

_Static_assert((int)HUFFMAN_MCU_BLOCKS_MAX >= (int)D_MAX_BLOCKS_IN_MCU, "an MCU must fit");
_Static_assert((int)HUFFMAN_BLOCK_COEFFICIENTS == (int)DCTSIZE2 && sizeof(JCOEF) == sizeof(int16_t), "blocks as libjpeg has them");

/* Samples of 8 bits make values of -1,024 to 1,016. */
enum { FLAT_MAX = 2048 };

static void give_up(struct jpeg_scan *scan, j_decompress_ptr d)
{
	scan->gave_up = true;
	ERREXIT(d, JERR_CANT_SUSPEND);
}

/* A block of one value has one sample: the value's eighth, rounded as the transform rounds it. False: a value beyond
 * what samples of 8 bits have, where its words would overflow. */
static inline bool flat(int value, JSAMPARRAY out, JDIMENSION column)
{
	const int sample = ((value + 4) >> 3) + CENTERJSAMPLE;
	const int clamped = sample < 0 ? 0 : sample > MAXJSAMPLE ? MAXJSAMPLE : sample;

	if (value < -FLAT_MAX || value > FLAT_MAX)
		return false;
	for (int y = 0; y < DCTSIZE; y++)
		memset(out[y] + column, clamped, DCTSIZE);
	return true;
}

/* places: what huffman_block() told of the coefficients. */
static inline void transform(j_decompress_ptr d, const struct jpeg_scan *scan, jpeg_component_info *component, int16_t *coefficients,
			     int places, JSAMPARRAY out, JDIMENSION column)
{
	if ((places & IDCT_BEYOND_CORNER) == 0) {
		const uint16_t *quantization = component->quant_table->quantval;

		if (places == 0 && flat(coefficients[0] * quantization[0], out, column))
			return;
		if (scan->corner != NULL && scan->corner(coefficients, quantization, out, column))
			return;
	}
	d->idct->inverse_DCT[component->component_index](d, component, coefficients, out, column);
}

/* One MCU, below `blocks_above` blocks of out, which has the rows of each component. */
static inline void decode_mcu(j_decompress_ptr d, struct jpeg_scan *scan, JSAMPIMAGE out, JDIMENSION mcu, int blocks_above)
{
	const bool last_column = mcu == d->MCUs_per_row - 1, last_row = d->input_iMCU_row == d->total_iMCU_rows - 1;
	int places[HUFFMAN_MCU_BLOCKS_MAX];

	if (d->restart_interval != 0 && scan->mcus_to_restart-- == 0) {
		if (!huffman_stream_restart(&scan->stream, scan->restarts++ & 7))
			give_up(scan, d);
		memset(scan->dc, 0, sizeof(scan->dc));
		scan->mcus_to_restart = d->restart_interval - 1;
	}
	if (!huffman_stream_fill(&scan->stream))
		give_up(scan, d);
	memset(scan->coefficients, 0, (size_t)scan->blocks * sizeof(scan->coefficients[0]));
	/* One loop after the other: what has just been written word by word would be slow to load whole. */
	for (int i = 0; i < scan->blocks; i++) {
		const struct jpeg_scan_block *block = &scan->block[i];

		places[i] = huffman_block(&scan->stream, block->dc_table, block->ac_table, &scan->dc[block->dc], scan->coefficients[i]);
		if (places[i] < 0)
			give_up(scan, d);
	}
	for (int i = 0; i < scan->blocks; i++) {
		const struct jpeg_scan_block *block = &scan->block[i];
		jpeg_component_info *component = block->component;
		const int row = blocks_above + block->row;

		/* Blocks that only fill the last MCUs have no place to go to. */
		if ((last_column && block->column >= component->last_col_width) || (last_row && row >= component->last_row_height))
			continue;
		transform(d, scan, component, scan->coefficients[i], places[i], out[component->component_index] + DCTSIZE * row,
			  mcu * (JDIMENSION)component->MCU_sample_width + DCTSIZE * (JDIMENSION)block->column);
	}
}

/* Takes the place of libjpeg's decompress_data(): one row of interleaved MCUs, or as many rows of blocks of a single component
 * as belong together. */
static int decompress(j_decompress_ptr d, JSAMPIMAGE out)
{
	struct jpeg_scan *scan = d->client_data;
	const jpeg_component_info *single = d->cur_comp_info[0];
	const bool last = d->input_iMCU_row == d->total_iMCU_rows - 1;
	const int rows = d->comps_in_scan > 1 ? 1 : last ? single->last_row_height : single->v_samp_factor;

	for (int row = 0; row < rows; row++)
		for (JDIMENSION mcu = 0; mcu < d->MCUs_per_row; mcu++)
			decode_mcu(d, scan, out, mcu, row);
	d->output_iMCU_row++;
	d->input_iMCU_row++;
	if (!last)
		return JPEG_ROW_COMPLETED;
	if (!huffman_stream_spent(&scan->stream) || !scan->ended(scan, scan->stream.at))
		give_up(scan, d);
	d->inputctl->finish_input_pass(d);
	return JPEG_SCAN_COMPLETED;
}

/* Takes the place of libjpeg's upsampling, which leads to its color conversion: as many rows as are asked for, of groups of
 * two. libjpeg sees to it that rows of colors above and below the group are there (context rows). */
static void upsample(j_decompress_ptr d, JSAMPIMAGE in, JDIMENSION *group, JDIMENSION groups, JSAMPARRAY out, JDIMENSION *out_row,
		     JDIMENSION out_rows)
{
	struct jpeg_scan *scan = d->client_data;
	const JSAMPARRAY cb = in[1] + *group, cr = in[2] + *group;

	(void)groups;
	for (; scan->row_of_pair < 2 && scan->rows_left > 0 && *out_row < out_rows; scan->row_of_pair++, scan->rows_left--) {
		const int far = scan->row_of_pair == 0 ? -1 : 1;
		const struct ycc_row row = {
			.y = in[0][2 * (size_t)*group + scan->row_of_pair], .cb = { cb[0], cb[far] }, .cr = { cr[0], cr[far] },
			.width = d->output_width, .colors = d->comp_info[1].downsampled_width,
		};

		scan->ycc_row(&row, out[(*out_row)++]);
	}
	if (scan->row_of_pair < 2)
		return;
	scan->row_of_pair = 0;
	(*group)++;
}

/* YCbCr with colors of half the width and height that libjpeg would smooth, to RGB. */
static bool is_smooth_420(const struct jpeg_decompress_struct *d)
{
	const jpeg_component_info *c = d->comp_info;

	if (d->num_components != 3 || d->jpeg_color_space != JCS_YCbCr || d->out_color_space != JCS_RGB || !d->do_fancy_upsampling ||
	    !d->upsample->need_context_rows || d->post->post_process_data != d->upsample->upsample)
		return false;
	for (int i = 0; i < 3; i++) {
		const int samples = i == 0 ? 2 : 1;

		if (c[i].h_samp_factor != samples || c[i].v_samp_factor != samples)
			return false;
	}
	return c[1].downsampled_width > 2 && c[2].downsampled_width == c[1].downsampled_width && d->output_width == c[0].downsampled_width &&
	       (d->output_width + 1) / 2 == c[1].downsampled_width && d->out_color_components == 3;
}

static bool is_full_size(const jpeg_component_info *component)
{
#if JPEG_LIB_VERSION >= 70
	return component->DCT_h_scaled_size == DCTSIZE && component->DCT_v_scaled_size == DCTSIZE;
#else
	return component->DCT_scaled_size == DCTSIZE;
#endif
}

/* Baseline or sequential Huffman coding in one scan, all of it, at full size. */
static bool is_simple(const struct jpeg_decompress_struct *d)
{
	if (d->inputctl->has_multiple_scans || d->progressive_mode || d->arith_code || d->data_precision != 8)
		return false;
	if (d->comps_in_scan != d->num_components || d->Ss != 0 || d->Se != DCTSIZE2 - 1 || d->Ah != 0 || d->Al != 0)
		return false;
	for (int i = 0; i < d->num_components; i++)
		if (!is_full_size(&d->comp_info[i]) || !d->comp_info[i].component_needed)
			return false;
	return d->blocks_in_MCU >= 1 && d->blocks_in_MCU <= HUFFMAN_MCU_BLOCKS_MAX && d->unread_marker == 0 && d->dct_method == JDCT_ISLOW &&
	       d->output_width == d->image_width;
}

/* Fills scan->block. False where a table is missing. */
static bool find_blocks(struct jpeg_scan *scan, j_decompress_ptr d)
{
	scan->blocks = d->blocks_in_MCU;
	for (int i = 0, of_component = 0; i < d->blocks_in_MCU; i++) {
		const int place = d->MCU_membership[i];
		jpeg_component_info *component = d->cur_comp_info[place];
		const int dc = component->dc_tbl_no, ac = component->ac_tbl_no;
		const JHUFF_TBL *dc_file, *ac_file;

		of_component = i > 0 && d->MCU_membership[i - 1] == place ? of_component + 1 : 0;
		if (dc < 0 || dc >= NUM_HUFF_TBLS || ac < 0 || ac >= NUM_HUFF_TBLS)
			return false;
		dc_file = d->dc_huff_tbl_ptrs[dc];
		ac_file = d->ac_huff_tbl_ptrs[ac];
		if (dc_file == NULL || ac_file == NULL ||
		    !huffman_table_build(&scan->dc_tables[dc], dc_file->bits, dc_file->huffval, true) ||
		    !huffman_table_build(&scan->ac_tables[ac], ac_file->bits, ac_file->huffval, false))
			return false;
		scan->block[i] = (struct jpeg_scan_block){
			.dc_table = &scan->dc_tables[dc], .ac_table = &scan->ac_tables[ac], .component = component, .dc = place,
			.row = of_component / component->MCU_width, .column = of_component % component->MCU_width,
		};
	}
	return true;
}

void jpeg_scan_take_over(struct jpeg_scan *scan, j_decompress_ptr d, const void *bytes, size_t size, size_t at)
{
	if (!is_simple(d) || !find_blocks(scan, d))
		return;
	scan->mcus_to_restart = d->restart_interval;
	scan->restarts = 0;
	memset(scan->dc, 0, sizeof(scan->dc));
	huffman_stream_open(&scan->stream, bytes, size, at);
	scan->corner = idct_corner_avx2();
	scan->took_over = true;
	d->coef->decompress_data = decompress;
	if ((scan->ycc_row = ycc_row_avx2()) == NULL || !is_smooth_420(d))
		return;
	scan->rows_left = d->output_height;
	scan->row_of_pair = 0;
	/* libjpeg has passed it on to the stage that it stands for without color quantization. */
	d->upsample->upsample = d->post->post_process_data = upsample;
}

#else

void jpeg_scan_take_over(struct jpeg_scan *scan, j_decompress_ptr d, const void *bytes, size_t size, size_t at)
{
	(void)scan, (void)d, (void)bytes, (void)size, (void)at;
}

#endif
