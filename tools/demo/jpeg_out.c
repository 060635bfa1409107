#include "tools/demo/jpeg_out.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

struct failure {
	struct jpeg_error_mgr base;
	jmp_buf back;
	char reason[JMSG_LENGTH_MAX];
};

static void on_error(j_common_ptr info)
{
	struct failure *failure = (struct failure *)info->err;

	info->err->format_message(info, failure->reason);
	longjmp(failure->back, 1);
}

static void compress(struct jpeg_compress_struct *info, const uint8_t *rgb, const struct jpeg_style *style)
{
	info->input_components = 3;
	info->in_color_space = JCS_RGB;
	jpeg_set_defaults(info);
	jpeg_set_quality(info, style->quality, TRUE);
	info->comp_info[0].h_samp_factor = style->sampling >= 1 ? 2 : 1;
	info->comp_info[0].v_samp_factor = style->sampling == 2 ? 2 : 1;
	if (style->progressive)
		jpeg_simple_progression(info);
	jpeg_start_compress(info, TRUE);
	while (info->next_scanline < info->image_height) {
		/* libjpeg takes rows without const, and only reads them. */
		JSAMPROW row = (JSAMPROW)(uintptr_t)(rgb + (size_t)info->next_scanline * info->image_width * 3);

		jpeg_write_scanlines(info, &row, 1);
	}
	jpeg_finish_compress(info);
}

struct target {
	unsigned char *bytes; /* libjpeg's, for free() */
	unsigned long size;
};

/* Apart from its caller, so that no local of this function changes after setjmp(). */
static bool compress_guarded(struct jpeg_compress_struct *info, struct failure *failure, const uint8_t *rgb,
			     const struct jpeg_style *style, struct target *target)
{
	if (setjmp(failure->back))
		return false;
	jpeg_mem_dest(info, &target->bytes, &target->size);
	compress(info, rgb, style);
	return true;
}

int jpeg_encode(const uint8_t *rgb, int width, int height, const struct jpeg_style *style, struct buf *out, struct err *err)
{
	struct jpeg_compress_struct info = { 0 };
	struct failure failure;
	struct target target = { NULL, 0 };
	int rc;

	info.err = jpeg_std_error(&failure.base);
	failure.base.error_exit = on_error;
	jpeg_create_compress(&info);
	info.image_width = (JDIMENSION)width;
	info.image_height = (JDIMENSION)height;
	if (compress_guarded(&info, &failure, rgb, style, &target))
		rc = buf_add(out, target.bytes, target.size, err);
	else
		rc = err_set(err, ERR_IO, "libjpeg: %s", failure.reason);
	jpeg_destroy_compress(&info);
	free(target.bytes);
	return rc;
}
