/* The loops of image_rows.h for any processor, and the choice among all. */
#define ROWS_TABLE plain_table
#define ROWS_NAME "plain"
#include "trainer/kernels/image_rows_body.h"

const struct image_rows *image_rows_plain(void)
{
	return &plain_table;
}

const struct image_rows *image_rows(void)
{
	static const struct image_rows *chosen;

	if (chosen == NULL) {
		chosen = image_rows_avx512();
		if (chosen == NULL)
			chosen = image_rows_avx2();
		if (chosen == NULL)
			chosen = image_rows_plain();
	}
	return chosen;
}
