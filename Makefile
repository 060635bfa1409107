# One non-recursive Makefile. `make help` lists what it can do.
#
# MODE picks flags and build folder: release, debug, asan (with UBSan), tsan, cov.
# ONEDNN=0 builds the trainer on OpenBLAS alone.

MODE ?= release
ONEDNN ?= auto
CC ?= cc
B := build/$(MODE)

PKGS_SHARED := libcrypto libprotobuf-c
PKGS_DAEMON := libuv lmdb libjpeg libutf8proc
pkg_cflags = $(shell pkg-config --cflags $(1) 2>/dev/null)
pkg_libs = $(shell pkg-config --libs $(1) 2>/dev/null)

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	-Wwrite-strings -Wvla -Wundef -Wformat=2 -Wno-format-nonliteral -Wno-format-truncation -Werror=implicit-function-declaration
# -ffp-contract=off: Pillow's and PyTorch's arithmetic rounds after every operation.
BASE := -std=gnu11 -D_GNU_SOURCE -I. -I$(B)/gen -g -fno-omit-frame-pointer -ffp-contract=off -pthread $(WARN)
FLAGS_release := -O3 -DNDEBUG
FLAGS_debug := -O0
FLAGS_asan := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined
FLAGS_tsan := -O1 -fsanitize=thread
FLAGS_cov := -O0 --coverage
ifeq ($(FLAGS_$(MODE)),)
$(error MODE=$(MODE) is not known; choose release, debug, asan, tsan or cov)
endif

ifeq ($(ONEDNN),auto)
ONEDNN := $(if $(wildcard /usr/include/dnnl.h /usr/include/oneapi/dnnl/dnnl.h),1,0)
endif
# Debian ships three builds of OpenBLAS under one soname; only the OpenMP one
# shares its threads with oneDNN, so its folder goes into the rpath.
OPENBLAS_DIR := $(firstword $(wildcard /usr/lib/*/openblas-openmp))
LIBS_BLAS := $(if $(OPENBLAS_DIR),-L$(OPENBLAS_DIR) -Wl$(comma)-rpath$(comma)$(OPENBLAS_DIR)) -lopenblas
OPENBLAS_INCLUDE := $(if $(OPENBLAS_DIR),-I$(patsubst /usr/lib/%,/usr/include/%,$(OPENBLAS_DIR)))
comma := ,
LIBS_TRAINER := $(LIBS_BLAS) $(if $(filter 1,$(ONEDNN)),-ldnnl) -fopenmp
LIBS_SHARED := $(call pkg_libs,$(PKGS_SHARED)) -lxxhash -lm -pthread
LIBS_DAEMON := $(call pkg_libs,$(PKGS_DAEMON))

CFLAGS_ALL := $(BASE) $(FLAGS_$(MODE)) $(call pkg_cflags,$(PKGS_SHARED) $(PKGS_DAEMON)) $(CFLAGS)
# -fno-math-errno: nobody reads errno after sqrtf(), and only so is it vectorized.
CFLAGS_TRAINER := -fopenmp -fno-math-errno $(OPENBLAS_INCLUDE) $(if $(filter 1,$(ONEDNN)),-DHAVE_ONEDNN=1)
LDFLAGS_ALL := $(FLAGS_$(MODE)) $(LDFLAGS)

SRC_shared := $(wildcard shared/*/*.c)
SRC_preprocessd := $(wildcard preprocessd/*/*.c)
SRC_trainer := $(wildcard trainer/*/*.c trainer/*/*/*.c)
SRC_prepctl := $(wildcard tools/prepctl/*.c)
SRC_test_support := $(wildcard tests/support/*.c)
PROTO := $(wildcard schemas/*.proto)
GEN_C := $(PROTO:schemas/%.proto=$(B)/gen/%.pb-c.c)
GEN_H := $(GEN_C:.c=.h)
obj = $(patsubst %.c,$(B)/obj/%.o,$(1))
OBJ_shared := $(call obj,$(SRC_shared)) $(GEN_C:$(B)/gen/%.c=$(B)/obj/gen/%.o)
OBJ_preprocessd := $(call obj,$(SRC_preprocessd))
OBJ_trainer := $(call obj,$(SRC_trainer))
LIB_shared := $(B)/libshared.a
LIB_preprocessd := $(B)/libpreprocessd.a
LIB_trainer := $(B)/libtrainer.a

PROGRAMS := $(if $(wildcard preprocessd/main.c),$(B)/bin/preprocessd) \
	$(if $(SRC_prepctl),$(B)/bin/prepctl) $(if $(wildcard trainer/main.c),$(B)/bin/trainer)
UNIT_TESTS := $(patsubst tests/unit/%.c,$(B)/tests/%,$(wildcard tests/unit/test_*.c))
BENCHES := $(patsubst tools/bench/%.c,$(B)/bench/%,$(wildcard tools/bench/*.c))

.PHONY: all programs help clean unit deps benches
.DEFAULT_GOAL := all
.SECONDARY:
.DELETE_ON_ERROR:

all: programs ## build preprocessd, prepctl and trainer into build/release/bin/

programs: $(PROGRAMS)

# Everything is rebuilt when the flags change.
STAMP := $(B)/flags
FLAGS_NOW := $(CC) $(CFLAGS_ALL) $(CFLAGS_TRAINER) $(LDFLAGS_ALL)
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(strip $(FLAGS_NOW)))
$(shell mkdir -p $(B) && printf '%s\n' '$(strip $(FLAGS_NOW))' > $(STAMP))
endif

$(B)/gen/%.pb-c.c $(B)/gen/%.pb-c.h: schemas/%.proto
	@mkdir -p $(B)/gen
	protoc-c --c_out=$(B)/gen --proto_path=schemas $<

$(B)/obj/gen/%.o: $(B)/gen/%.c $(STAMP)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -w -MMD -MP -c $< -o $@

$(B)/obj/trainer/%.o: trainer/%.c $(STAMP) | $(GEN_H)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(CFLAGS_TRAINER) -MMD -MP -c $< -o $@

$(B)/obj/%.o: %.c $(STAMP) | $(GEN_H)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

define archive
$(1): $(2)
	@rm -f $$@
	ar rcs $$@ $$^
endef
$(eval $(call archive,$(LIB_shared),$(OBJ_shared)))
$(eval $(call archive,$(LIB_preprocessd),$(OBJ_preprocessd)))
$(eval $(call archive,$(LIB_trainer),$(OBJ_trainer)))

$(B)/bin/preprocessd: $(B)/obj/preprocessd/main.o $(LIB_preprocessd) $(LIB_shared)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) $^ $(LIBS_DAEMON) $(LIBS_SHARED) -o $@

$(B)/bin/prepctl: $(call obj,$(SRC_prepctl)) $(LIB_preprocessd) $(LIB_shared)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) $^ $(LIBS_DAEMON) $(LIBS_SHARED) -o $@

$(B)/bin/trainer: $(B)/obj/trainer/main.o $(LIB_trainer) $(LIB_shared)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) $^ $(LIBS_TRAINER) $(LIBS_SHARED) -o $@

$(B)/tests/%: $(B)/obj/tests/unit/%.o $(call obj,$(SRC_test_support)) $(LIB_preprocessd) $(LIB_trainer) $(LIB_shared)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) $^ $(LIBS_DAEMON) $(LIBS_TRAINER) $(LIBS_SHARED) -lcmocka -o $@

$(B)/bench/%: $(B)/obj/tools/bench/%.o $(LIB_preprocessd) $(LIB_trainer) $(LIB_shared)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) $^ $(LIBS_DAEMON) $(LIBS_TRAINER) $(LIBS_SHARED) -o $@

unit: $(UNIT_TESTS) ## build and run the C unit tests
	@set -e; for t in $(UNIT_TESTS); do echo "== $$t"; $$t; done

benches: $(BENCHES)

clean: ## remove build/
	rm -rf build

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
