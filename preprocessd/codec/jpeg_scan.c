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

static boolean give_up(struct jpeg_scan *scan, j_decompress_ptr d)
{
	scan->gave_up = true;
	ERREXIT(d, JERR_CANT_SUSPEND);
	return FALSE;
}

/* Takes the place of libjpeg's decode_mcu(). libjpeg has cleared the blocks. */
static boolean decode_mcu(j_decompress_ptr d, JBLOCKROW *blocks)
{
	struct jpeg_scan *scan = d->client_data;

	if (d->restart_interval != 0 && scan->mcus_to_restart-- == 0) {
		if (!huffman_stream_restart(&scan->stream, scan->restarts++ & 7))
			return give_up(scan, d);
		memset(scan->dc, 0, sizeof(scan->dc));
		scan->mcus_to_restart = d->restart_interval - 1;
	}
	if (scan->mcus_left == 0 || !huffman_stream_fill(&scan->stream))
		return give_up(scan, d);
	scan->coefficients = blocks[0][0];
	for (int i = 0; i < scan->blocks; i++) {
		if (blocks[i] != blocks[0] + i)
			return give_up(scan, d);
		scan->block_places[i] = huffman_block(&scan->stream, scan->block_dc[i], scan->block_ac[i],
						    &scan->dc[scan->block_component[i]], blocks[i][0]);
		if (scan->block_places[i] < 0)
			return give_up(scan, d);
	}
	if (--scan->mcus_left == 0 && !(huffman_stream_spent(&scan->stream) && scan->ended(scan, scan->stream.at)))
		return give_up(scan, d);
	return TRUE;
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

/* Takes the place of libjpeg's accurate inverse DCT. */
static void transform(j_decompress_ptr d, jpeg_component_info *component, JCOEFPTR coefficients, JSAMPARRAY out,
		      JDIMENSION column)
{
	struct jpeg_scan *scan = d->client_data;
	const ptrdiff_t block = (coefficients - scan->coefficients) / DCTSIZE2;

	if (block >= 0 && block < scan->blocks && (scan->block_places[block] & IDCT_BEYOND_CORNER) == 0) {
		const uint16_t *quantization = component->quant_table->quantval;

		if (scan->block_places[block] == 0 && flat(coefficients[0] * quantization[0], out, column))
			return;
		if (scan->corner != NULL && scan->corner(coefficients, quantization, out, column))
			return;
	}
	scan->transform[component->component_index](d, component, coefficients, out, column);
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

		if (c[i].h_samp_factor != samples || c[i].v_samp_factor != samples || c[i].DCT_scaled_size != DCTSIZE)
			return false;
	}
	return c[1].downsampled_width > 2 && c[2].downsampled_width == c[1].downsampled_width && d->output_width == d->image_width &&
	       d->output_width == c[0].downsampled_width && (d->output_width + 1) / 2 == c[1].downsampled_width && d->out_color_components == 3;
}

/* Baseline or sequential Huffman coding in one scan, all of it. */
static bool is_simple(const struct jpeg_decompress_struct *d)
{
	if (d->inputctl->has_multiple_scans || d->progressive_mode || d->arith_code || d->data_precision != 8)
		return false;
	if (d->comps_in_scan != d->num_components || d->Ss != 0 || d->Se != DCTSIZE2 - 1 || d->Ah != 0 || d->Al != 0)
		return false;
	return d->blocks_in_MCU >= 1 && d->blocks_in_MCU <= HUFFMAN_MCU_BLOCKS_MAX && d->unread_marker == 0;
}

void jpeg_scan_take_over(struct jpeg_scan *scan, j_decompress_ptr d, const void *bytes, size_t size, size_t at)
{
	if (!is_simple(d))
		return;
	for (int i = 0; i < d->blocks_in_MCU; i++) {
		const int component = d->MCU_membership[i];
		const int dc = d->cur_comp_info[component]->dc_tbl_no, ac = d->cur_comp_info[component]->ac_tbl_no;
		const JHUFF_TBL *dc_file, *ac_file;

		if (dc < 0 || dc >= NUM_HUFF_TBLS || ac < 0 || ac >= NUM_HUFF_TBLS)
			return;
		dc_file = d->dc_huff_tbl_ptrs[dc];
		ac_file = d->ac_huff_tbl_ptrs[ac];
		if (dc_file == NULL || ac_file == NULL ||
		    !huffman_table_build(&scan->dc_tables[dc], dc_file->bits, dc_file->huffval, true) ||
		    !huffman_table_build(&scan->ac_tables[ac], ac_file->bits, ac_file->huffval, false))
			return;
		scan->block_dc[i] = &scan->dc_tables[dc];
		scan->block_ac[i] = &scan->ac_tables[ac];
		scan->block_component[i] = component;
	}
	scan->blocks = d->blocks_in_MCU;
	scan->mcus_left = d->MCUs_per_row * d->MCU_rows_in_scan;
	scan->mcus_to_restart = d->restart_interval;
	scan->restarts = 0;
	memset(scan->dc, 0, sizeof(scan->dc));
	huffman_stream_open(&scan->stream, bytes, size, at);
	scan->took_over = true;
	d->entropy->decode_mcu = decode_mcu;
	if (d->dct_method != JDCT_ISLOW)
		return;
	scan->corner = idct_corner_avx2();
	if ((scan->ycc_row = ycc_row_avx2()) != NULL && is_smooth_420(d)) {
		scan->rows_left = d->output_height;
		scan->row_of_pair = 0;
		/* libjpeg has passed it on to the stage that it stands for without color quantization. */
		d->upsample->upsample = d->post->post_process_data = upsample;
	}
	for (int i = 0; i < d->num_components; i++) {
		if (d->comp_info[i].DCT_scaled_size != DCTSIZE)
			continue;
		scan->transform[i] = d->idct->inverse_DCT[i];
		d->idct->inverse_DCT[i] = transform;
	}
}

#else

void jpeg_scan_take_over(struct jpeg_scan *scan, j_decompress_ptr d, const void *bytes, size_t size, size_t at)
{
	(void)scan, (void)d, (void)bytes, (void)size, (void)at;
}

#endif
