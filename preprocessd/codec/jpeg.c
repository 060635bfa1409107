#include "preprocessd/codec/jpeg.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

#include "preprocessd/codec/jpeg_scan.h"
#include "shared/base/mem.h"

enum {
	PIECE_BYTES = 65536,
	PIECE_EDGE_BYTES = 16, /* more than libjpeg reads ahead */
	/* libjpeg-turbo writes rows that are aligned to 16 or 32 bytes past the
	 * cache, where the resizer would wait for them: keep rows unaligned. */
	ROW_OFFSET_BYTES = 8,
};

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

const char *jpeg_decoder_name(void)
{
	return "libjpeg-turbo-" TEXT(LIBJPEG_TURBO_VERSION);
}

/* Data that libjpeg may see so far. A function of libjpeg that runs out of it
 * stops, and goes on where it was when there is more. The pieces matter: what
 * can't suspend (arithmetic decoding) fails at their ends, as it does in Pillow. */
struct source {
	struct jpeg_source_mgr pub;
	const uint8_t *bytes;
	size_t size;  /* of the file */
	size_t shown; /* bytes that libjpeg has been shown */
	size_t skip;  /* bytes that it wants to skip beyond those */
};

struct jpeg {
	struct jpeg_scan scan; /* first: d->client_data points to both */
	struct jpeg_decompress_struct decompress;
	struct jpeg_error_mgr errors;
	struct jpeg_progress_mgr progress;
	struct source source;
	jmp_buf failed;
	uint64_t block_visits_max;
	bool over_limit; /* why `failed` was taken, if not for libjpeg */
	bool all_plain;  /* libjpeg decodes every picture's scan by itself */

	uint8_t *rows; /* (JPEG_BATCH_ROWS, stride) */
	size_t rows_capacity, stride;
	JSAMPROW row[JPEG_BATCH_ROWS];
};

static struct jpeg *jpeg_of(j_common_ptr common)
{
	return common->client_data;
}

static void on_error(j_common_ptr common)
{
	longjmp(jpeg_of(common)->failed, 1);
}

static void on_message(j_common_ptr common, int level)
{
	if (level < 0)
		common->err->num_warnings++;
}

static void on_output(j_common_ptr common)
{
	(void)common;
}

/* Called by libjpeg for each row of blocks of each scan that it reads ahead. */
static void on_progress(j_common_ptr common)
{
	struct jpeg *jpeg = jpeg_of(common);
	j_decompress_ptr d = &jpeg->decompress;
	uint64_t blocks = ((uint64_t)d->image_width / DCTSIZE + 1) * ((uint64_t)d->image_height / DCTSIZE + 1);

	if (blocks * (uint64_t)d->input_scan_number > jpeg->block_visits_max) {
		jpeg->over_limit = true;
		longjmp(jpeg->failed, 1);
	}
}

static void source_nothing(j_decompress_ptr d)
{
	(void)d;
}

static boolean source_fill(j_decompress_ptr d)
{
	(void)d;
	return FALSE;
}

static void source_skip(j_decompress_ptr d, long count)
{
	struct source *source = (struct source *)d->src;
	size_t available = source->pub.bytes_in_buffer;
	size_t wanted = count > 0 ? (size_t)count : 0;
	size_t taken = wanted < available ? wanted : available;

	source->pub.next_input_byte += taken;
	source->pub.bytes_in_buffer -= taken;
	source->skip = wanted - taken;
}

static void source_open(struct source *source, const uint8_t *bytes, size_t size)
{
	*source = (struct source){
		.pub = {
			.next_input_byte = bytes,
			.init_source = source_nothing,
			.fill_input_buffer = source_fill,
			.skip_input_data = source_skip,
			.resync_to_restart = jpeg_resync_to_restart,
			.term_source = source_nothing,
		},
		.bytes = bytes,
		.size = size,
	};
}

/* Shows libjpeg more of the file; false at its end. */
static bool source_more(struct jpeg *jpeg)
{
	struct source *source = &jpeg->source;

	do {
		size_t left = source->size - source->shown;
		size_t piece = left < PIECE_BYTES ? left : PIECE_BYTES;

		if (piece == 0)
			return false;
		source->shown += piece;
		source->pub.bytes_in_buffer += piece;
		if (source->skip > 0)
			source_skip(&jpeg->decompress, (long)source->skip);
	} while (source->skip > 0);
	return true;
}

/* Our own entropy decoder read the file past libjpeg: shows libjpeg the marker
 * behind the scan, in the piece that it would have reached. Near the end of a
 * piece only libjpeg itself knows which that is. */
static bool scan_ended(struct jpeg_scan *scan, size_t marker_at)
{
	struct source *source = &((struct jpeg *)scan)->source;
	const size_t piece = marker_at / PIECE_BYTES, left = source->size - piece * PIECE_BYTES;

	if (marker_at < PIECE_EDGE_BYTES || (marker_at - PIECE_EDGE_BYTES) / PIECE_BYTES != piece ||
	    (marker_at + PIECE_EDGE_BYTES) / PIECE_BYTES != piece)
		return false;
	source->shown = piece * PIECE_BYTES + (left < PIECE_BYTES ? left : PIECE_BYTES);
	source->pub.next_input_byte = source->bytes + marker_at;
	source->pub.bytes_in_buffer = source->shown - marker_at;
	return true;
}

static int truncated(const struct jpeg *jpeg, struct err *err)
{
	const struct jpeg_decompress_struct *d = &jpeg->decompress;

	if (d->output_scanline > 0)
		return err_set(err, ERR_FORMAT, "the JPEG data ends at row %u of %u: the file is cut off",
			       d->output_scanline, d->output_height);
	return err_set(err, ERR_FORMAT, "the JPEG data ends before the picture does: the file is cut off");
}

static int code_of(int message)
{
	switch (message) {
	case JERR_OUT_OF_MEMORY:
		return ERR_NOMEM;
	case JERR_IMAGE_TOO_BIG:
	case JERR_WIDTH_OVERFLOW:
		return ERR_LIMIT;
#if JPEG_LIB_VERSION < 70 /* Ubuntu's has the interface of libjpeg 8, where it is called JERR_NOTIMPL */
	case JERR_ARITH_NOTIMPL:
#endif
	case JERR_BAD_PRECISION:
	case JERR_CCIR601_NOTIMPL:
	case JERR_COMPONENT_COUNT:
	case JERR_CONVERSION_NOTIMPL:
	case JERR_EMPTY_IMAGE: /* the height comes later, in a DNL marker */
	case JERR_FRACT_SAMPLE_NOTIMPL:
	case JERR_NOTIMPL:
	case JERR_NOT_COMPILED:
	case JERR_SOF_UNSUPPORTED:
	case JERR_CANT_SUSPEND: /* arithmetic coding beyond the first piece */
		return ERR_UNSUPPORTED;
	default:
		return ERR_FORMAT;
	}
}

/* What a SOF marker that libjpeg-turbo refuses stands for (T.81 table B.1). */
static const char *process_name(int marker)
{
	static const char *const names[16] = {
		[0x3] = "lossless", [0x5] = "hierarchical", [0x6] = "hierarchical progressive",
		[0x7] = "hierarchical lossless", [0x8] = "reserved", [0xB] = "lossless arithmetic",
		[0xD] = "hierarchical arithmetic", [0xE] = "hierarchical progressive arithmetic",
		[0xF] = "hierarchical lossless arithmetic",
	};
	const char *name = (marker & 0xF0) == 0xC0 ? names[marker & 0x0F] : NULL;

	return name != NULL ? name : "unknown";
}

static int refused(struct jpeg *jpeg, struct err *err)
{
	char text[JMSG_LENGTH_MAX];
	const int message = jpeg->errors.msg_code, detail = jpeg->errors.msg_parm.i[0];
	const int code = code_of(message);

	if (jpeg->over_limit)
		return err_set(err, ERR_LIMIT, "a JPEG with %d or more scans of %u x %u pixels, which is more work than a "
			       "picture is worth: save it anew", jpeg->decompress.input_scan_number,
			       jpeg->decompress.image_width, jpeg->decompress.image_height);
	switch (message) {
	case JERR_BAD_PRECISION:
		return err_set(err, code, "a JPEG with %d bits a sample; only 8 are supported: convert it", detail);
	case JERR_SOF_UNSUPPORTED:
		return err_set(err, code, "a JPEG of the %s process, which libjpeg-turbo does not decode: convert it",
			       process_name(detail));
	case JERR_EMPTY_IMAGE:
		return err_set(err, code, "a JPEG whose header promises no pixels (0 rows, columns or components)");
	case JERR_CANT_SUSPEND:
		if (jpeg->source.shown == jpeg->source.size)
			return truncated(jpeg, err);
		return err_set(err, code, "an arithmetic-coded JPEG of more than %d KiB, which Pillow does not load either: "
			       "convert it", PIECE_BYTES / 1024);
	case JERR_UNKNOWN_MARKER:
		if (detail == 0xF7)
			return err_set(err, ERR_UNSUPPORTED, "a JPEG-LS file, not JPEG: convert it");
		break;
	default:
		break;
	}
	jpeg->errors.format_message((j_common_ptr)&jpeg->decompress, text);
	return err_set(err, code, "%s: %s", code == ERR_FORMAT ? "damaged JPEG" : "JPEG that can't be decoded", text);
}

int jpeg_open(struct jpeg **out, struct err *err)
{
	struct jpeg *jpeg = mem_zalloc(sizeof(*jpeg));

	*out = NULL;
	if (jpeg == NULL)
		return err_nomem(err, sizeof(*jpeg));
	jpeg->block_visits_max = JPEG_BLOCK_VISITS_MAX;
	jpeg->scan.ended = scan_ended;
	*out = jpeg;
	return 0;
}

void jpeg_limit_work(struct jpeg *jpeg, uint64_t block_visits_max)
{
	jpeg->block_visits_max = block_visits_max;
}

void jpeg_leave_to_libjpeg(struct jpeg *jpeg, bool all)
{
	jpeg->all_plain = all;
}

bool jpeg_scan_was_ours(const struct jpeg *jpeg)
{
	return jpeg->scan.took_over && !jpeg->scan.gave_up;
}

void jpeg_close(struct jpeg *jpeg)
{
	if (jpeg == NULL)
		return;
	mem_free(jpeg->rows);
	mem_free(jpeg);
}

long jpeg_warnings(const struct jpeg *jpeg)
{
	return jpeg->errors.num_warnings;
}

/* Colors of the rows that libjpeg makes, as Pillow chooses them by the number
 * of components. */
static int choose_colors(struct jpeg *jpeg, struct jpeg_info *info, struct err *err)
{
	j_decompress_ptr d = &jpeg->decompress;

	*info = (struct jpeg_info){ .width = d->image_width, .height = d->image_height, .channels = 3 };
	switch (d->num_components) {
	case 1:
		d->out_color_space = JCS_GRAYSCALE;
		info->channels = 1;
		return 0;
	case 3:
		d->out_color_space = JCS_RGB;
		return 0;
	case 4:
		d->out_color_space = JCS_CMYK;
		return 0;
	default:
		return err_set(err, ERR_UNSUPPORTED, "a JPEG with %d components; 1 (gray), 3 (color) and 4 (CMYK) are supported",
			       d->num_components);
	}
}

/* One buffer of rows of d->num_components samples; what libjpeg adds to the
 * right lies within the slack. */
static int reserve_rows(struct jpeg *jpeg, struct err *err)
{
	const j_decompress_ptr d = &jpeg->decompress;
	size_t wanted;

	jpeg->stride = size_round_up((size_t)d->image_width * (size_t)d->num_components, MEM_ALIGN_BYTES);
	CHECK(size_mul(jpeg->stride, JPEG_BATCH_ROWS, &wanted));
	CHECK(size_add(wanted, ROW_OFFSET_BYTES + JPEG_SLACK_BYTES, &wanted));
	if (wanted > jpeg->rows_capacity) {
		mem_free(jpeg->rows);
		jpeg->rows_capacity = 0;
		if ((jpeg->rows = mem_aligned(wanted)) == NULL)
			return err_nomem(err, wanted);
		/* Kernels may look at the slack, never use it: keep tools quiet. */
		memset(jpeg->rows, 0, wanted);
		jpeg->rows_capacity = wanted;
	}
	for (int y = 0; y < JPEG_BATCH_ROWS; y++)
		jpeg->row[y] = jpeg->rows + ROW_OFFSET_BYTES + (size_t)y * jpeg->stride;
	return 0;
}

/* a * b / 255, rounded, the way Pillow rounds. */
static inline int scale_255(int a, int b)
{
	int product = a * b + 128;

	return (product + (product >> 8)) >> 8;
}

/* Adobe's inverted CMYK to RGB, in place: 4 samples become 3. */
static void cmyk_to_rgb(uint8_t *row, uint32_t width)
{
	const uint8_t *in = row;
	uint8_t *out = row;

	for (uint32_t x = 0; x < width; x++, in += 4, out += 3) {
		const int white = in[3];
		const int cyan = 255 - in[0], magenta = 255 - in[1], yellow = 255 - in[2];

		out[0] = (uint8_t)(white - scale_255(cyan, white));
		out[1] = (uint8_t)(white - scale_255(magenta, white));
		out[2] = (uint8_t)(white - scale_255(yellow, white));
	}
}

static void deliver(struct jpeg *jpeg, const struct jpeg_sink *sink, int count)
{
	if (jpeg->decompress.num_components == 4) {
		for (int y = 0; y < count; y++)
			cmyk_to_rgb(jpeg->row[y], jpeg->decompress.output_width);
	}
	sink->rows(sink->context, jpeg->row[0], jpeg->stride, count);
}

static int read_header(struct jpeg *jpeg, const struct jpeg_sink *sink, struct err *err)
{
	struct jpeg_info info;
	int state, code;

	/* Tables may come as a stream of their own in front of the picture's. */
	do {
		while ((state = jpeg_read_header(&jpeg->decompress, FALSE)) == JPEG_SUSPENDED) {
			if (!source_more(jpeg))
				return truncated(jpeg, err);
		}
	} while (state == JPEG_HEADER_TABLES_ONLY);
	if ((code = choose_colors(jpeg, &info, err)) != 0 || (code = sink->begin(sink->context, &info, err)) != 0)
		return code;
	return reserve_rows(jpeg, err);
}

/* plain: libjpeg decodes the scan by itself. */
static int read_rows(struct jpeg *jpeg, const struct jpeg_sink *sink, bool plain, struct err *err)
{
	j_decompress_ptr d = &jpeg->decompress;
	int filled = 0;

	while (!jpeg_start_decompress(d)) {
		if (!source_more(jpeg))
			return truncated(jpeg, err);
	}
	if (!plain)
		jpeg_scan_take_over(&jpeg->scan, d, jpeg->source.bytes, jpeg->source.size,
				    (size_t)(d->src->next_input_byte - jpeg->source.bytes));
	while (d->output_scanline < d->output_height) {
		JDIMENSION got = jpeg_read_scanlines(d, jpeg->row + filled, (JDIMENSION)(JPEG_BATCH_ROWS - filled));

		if (got == 0 && !source_more(jpeg))
			return truncated(jpeg, err);
		filled += (int)got;
		if (filled == JPEG_BATCH_ROWS || d->output_scanline == d->output_height) {
			deliver(jpeg, sink, filled);
			filled = 0;
		}
	}
	/* Suspending here is fine: all rows are in. An error is one, as in Pillow. */
	(void)jpeg_finish_decompress(d);
	return 0;
}

static int decode(struct jpeg *jpeg, const void *bytes, size_t size, const struct jpeg_sink *sink, bool plain, struct err *err)
{
	j_decompress_ptr d = &jpeg->decompress;
	int code;

	jpeg->over_limit = jpeg->scan.took_over = jpeg->scan.gave_up = false;
	d->err = jpeg_std_error(&jpeg->errors);
	jpeg->errors.error_exit = on_error;
	jpeg->errors.emit_message = on_message;
	jpeg->errors.output_message = on_output;
	d->client_data = jpeg;
	/* Nothing but *jpeg changes between here and a jump, so no local is lost. */
	if (setjmp(jpeg->failed) != 0) {
		code = jpeg->scan.gave_up ? ERR_FORMAT : refused(jpeg, err);
		goto out;
	}
	/* A new one each time: the tables of one picture must not serve the next. */
	jpeg_create_decompress(d);
	/* What JPEGMEM in the environment says would make damaged files of sound ones. */
	d->mem->max_memory_to_use = 0;
	jpeg->progress = (struct jpeg_progress_mgr){ .progress_monitor = on_progress };
	d->progress = &jpeg->progress;
	source_open(&jpeg->source, bytes, size);
	d->src = &jpeg->source.pub;
	if ((code = read_header(jpeg, sink, err)) == 0)
		code = read_rows(jpeg, sink, plain, err);
out:
	jpeg_destroy_decompress(d);
	return code;
}

int jpeg_decode(struct jpeg *jpeg, const void *bytes, size_t size, const struct jpeg_sink *sink, struct err *err)
{
	int code = decode(jpeg, bytes, size, sink, jpeg->all_plain, err);

	if (!jpeg->scan.gave_up)
		return code;
	/* Data that are not sound: what becomes of them is libjpeg's to say. */
	return decode(jpeg, bytes, size, sink, true, err);
}
