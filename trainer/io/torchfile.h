/*
 * torchfile.h - the state dict in a file that torch.save() wrote, .pth, .pt or .bin.
 *
 * Both formats: the zip archive (PyTorch 1.6 and later) and the legacy one (a
 * magic number, pickles, then the storages). The pickle never runs code
 * (pickle.h). A state dict is found at the top or inside of the usual
 * wrappers, such as {'state_dict': ...}; what is no tensor is passed over.
 * Every storage must be whole, and every tensor lie within its storage.
 *
 * Nothing is copied: tensors are strided views of the mapped file. Checksums
 * of the archive are verified for all storages that the state dict uses.
 *
 * Threads:   a reader may be shared by threads that only read.
 * Limits:    those of pickle.h and zipfile.h.
 * Format:    schemas/weights.md.
 */
#ifndef TRAINER_IO_TORCHFILE_H
#define TRAINER_IO_TORCHFILE_H

#include "trainer/io/state_tensor.h"

struct torchfile; /* an open file; tensors and names live as long as it */
MUST_USE int torchfile_open(struct torchfile **out, const char *path, struct err *err);
/* The same from bytes in memory, which are borrowed; path names them in messages. */
MUST_USE int torchfile_parse(struct torchfile **out, const char *path, const void *data, size_t bytes, struct err *err);
void torchfile_close(struct torchfile *file); /* NULL is fine */
int torchfile_count(const struct torchfile *file);
const struct state_tensor *torchfile_at(const struct torchfile *file, int index); /* in order of the state dict */

/* Whether a file that begins with these bytes is one of torch.save(). */
bool torchfile_is_zip(const void *start, size_t bytes);
bool torchfile_is_legacy(const void *start, size_t bytes);

#endif
