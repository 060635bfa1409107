# One non-recursive Makefile. `make help` lists what it can do.
#
# MODE picks flags and build folder: release, debug, asan (with UBSan), tsan,
# cov, lint (warnings are errors), fuzz (clang with libFuzzer).
# ONEDNN=0 builds the trainer on OpenBLAS alone.

MODE ?= release
ONEDNN ?= auto
CC ?= cc
PREFIX ?= /usr/local
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
# The tests' oracles are Debian's packages, which another python3 on PATH does not see.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
FUZZ_SECONDS ?= 10
B := build/$(MODE)
comma := ,
# V=1 shows the commands.
Q := $(if $(V),,@)
say = $(if $(V),,@echo '  $(1)')
export MODE PYTHON FUZZ_SECONDS

ifeq ($(MODE),fuzz)
CC := clang
endif

PKGS_SHARED := libcrypto libprotobuf-c
PKGS_DAEMON := libuv lmdb libjpeg
pkg_cflags = $(shell pkg-config --cflags $(1) 2>/dev/null)
pkg_libs = $(shell pkg-config --libs $(1) 2>/dev/null)

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	-Wwrite-strings -Wvla -Wundef -Wformat=2 -Wno-format-nonliteral -Wno-format-truncation -Werror=implicit-function-declaration
ifneq ($(findstring clang,$(CC)),)
WARN += -Wno-unknown-warning-option
endif
# -ffp-contract=off: Pillow's and PyTorch's arithmetic rounds after every operation.
BASE := -std=gnu11 -D_GNU_SOURCE -I. -I$(B)/gen -g -fno-omit-frame-pointer -ffp-contract=off -pthread $(WARN)
FLAGS_release := -O3 -DNDEBUG -D_FORTIFY_SOURCE=2 -fstack-protector-strong
FLAGS_debug := -O0
FLAGS_asan := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined
FLAGS_tsan := -O1 -fsanitize=thread
FLAGS_cov := -O0 --coverage
FLAGS_lint := -O2 -Werror
FLAGS_fuzz := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
ifeq ($(FLAGS_$(MODE)),)
$(error MODE=$(MODE) is not known; choose release, debug, asan, tsan, cov, lint or fuzz)
endif

ifeq ($(ONEDNN),auto)
ONEDNN := $(if $(wildcard /usr/include/dnnl.h /usr/include/oneapi/dnnl/dnnl.h),1,0)
endif
# Debian ships three builds of OpenBLAS under one soname; only the OpenMP one
# shares its threads with oneDNN, so its folder goes into the rpath.
OPENBLAS_DIR := $(firstword $(wildcard /usr/lib/*/openblas-openmp))
LIBS_BLAS := $(if $(OPENBLAS_DIR),-L$(OPENBLAS_DIR) -Wl$(comma)-rpath$(comma)$(OPENBLAS_DIR)) -lopenblas
OPENBLAS_INCLUDE := $(if $(OPENBLAS_DIR),-I$(patsubst /usr/lib/%,/usr/include/%,$(OPENBLAS_DIR)))
OPENMP := $(if $(findstring clang,$(CC)),-fopenmp=libgomp,-fopenmp)
LIBS_TRAINER := $(LIBS_BLAS) $(if $(filter 1,$(ONEDNN)),-ldnnl) $(OPENMP)
LIBS_SHARED := $(call pkg_libs,$(PKGS_SHARED)) -lxxhash -lm -pthread
LIBS_DAEMON := $(call pkg_libs,$(PKGS_DAEMON))

CFLAGS_ALL := $(BASE) $(FLAGS_$(MODE)) $(call pkg_cflags,$(PKGS_SHARED) $(PKGS_DAEMON)) $(CFLAGS)
# -fno-math-errno: nobody reads errno after sqrtf(), and only so is it vectorized.
CFLAGS_TRAINER := $(OPENMP) -fno-math-errno $(OPENBLAS_INCLUDE) $(if $(filter 1,$(ONEDNN)),-DHAVE_ONEDNN=1)
LDFLAGS_ALL := $(FLAGS_$(MODE)) -Wl,-z,relro,-z,now $(LDFLAGS)

SRC_shared := $(wildcard shared/*/*.c)
SRC_preprocessd := $(wildcard preprocessd/*/*.c)
SRC_trainer := $(wildcard trainer/*/*.c trainer/*/*/*.c)
SRC_prepctl := $(wildcard tools/prepctl/*.c)
SRC_demo := $(wildcard tools/demo/*.c)
SRC_test_support := $(wildcard tests/support/*.c)
PROTO := $(wildcard schemas/*.proto)
GEN_C := $(PROTO:schemas/%.proto=$(B)/gen/%.pb-c.c)
GEN_H := $(GEN_C:.c=.h)
LIB_test := $(if $(SRC_test_support),$(B)/libtest.a)
obj = $(patsubst %.c,$(B)/obj/%.o,$(1))
OBJ_shared := $(call obj,$(SRC_shared)) $(GEN_C:$(B)/gen/%.c=$(B)/obj/gen/%.o)
OBJ_preprocessd := $(call obj,$(SRC_preprocessd))
OBJ_trainer := $(call obj,$(SRC_trainer))
LIB_shared := $(B)/libshared.a
LIB_preprocessd := $(B)/libpreprocessd.a
LIB_trainer := $(B)/libtrainer.a

PROGRAMS := $(if $(wildcard preprocessd/main.c),$(B)/bin/preprocessd) \
	$(if $(wildcard tools/prepctl/main.c),$(B)/bin/prepctl) $(if $(wildcard trainer/main.c),$(B)/bin/trainer)
UNIT_TESTS := $(patsubst tests/unit/%.c,$(B)/tests/%,$(wildcard tests/unit/test_*.c)) $(B)/tests/test_differences \
	$(B)/tests/test_resize_emulated $(B)/tests/test_tiles_emulated $(B)/tests/test_gemm_bf16_emulated
# libgomp is not instrumented for races: what uses the trainer's kernels stays out of MODE=tsan.
UNIT_TESTS_TSAN := $(patsubst tests/unit/%.c,$(B)/tests/%,$(if $(filter tsan,$(MODE)),$(shell grep -L '"trainer/' tests/unit/test_*.c 2>/dev/null)))
FUZZERS := $(patsubst tests/fuzz/%.c,$(B)/bin/%,$(wildcard tests/fuzz/fuzz_*.c))
BENCHES := $(patsubst tools/bench/%.c,$(B)/bench/%,$(wildcard tools/bench/*.c))
DEMO_DATA := $(B)/demo/make_demo_data

RESULTS ?= build/results/test.jsonl
RUN_TESTS = $(PYTHON) tests/support/run_tests.py --results $(RESULTS)
SUBMAKE = $(MAKE) --no-print-directory -j$(JOBS)

.PHONY: all programs openblas help clean deps demo test test-unit test-python lint objects fuzz fuzz-programs fuzz-run \
	check-asan check-asan-all check-tsan tsan-run unit unit-programs benches bench install uninstall
.DEFAULT_GOAL := all
.SECONDARY:
.DELETE_ON_ERROR:

all: programs ## build preprocessd, prepctl and trainer into build/release/bin/

programs: $(PROGRAMS)

openblas: $(B)/openblas/trainer ## the trainer as ONEDNN=0 builds it, in build/release/openblas/, beside the usual one

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16
	@echo
	@echo "MODE=release|debug|asan|tsan|cov picks flags and build folder; ONEDNN=0 builds without oneDNN."

deps: ## install the packages that building, the demo and the tests need (asks for sudo)
	@tools/install-deps.sh --test

demo: ## set up everything, make a data set, train the four arms, print one table
	@tools/install-deps.sh
	@echo "building ..."
	@$(SUBMAKE) -s MODE=release all build/release/demo/make_demo_data build/release/tools/train_vocab
	@tools/demo/run.sh

test: ## set up everything, build, run every test; the last line counts them
	@tools/install-deps.sh --test
	@rm -f $(RESULTS)
	@echo "building ..."
	@$(SUBMAKE) -s all openblas unit-programs build/$(MODE)/demo/make_demo_data build/$(MODE)/tools/train_vocab
	@$(MAKE) --no-print-directory test-unit test-python
	@$(RUN_TESTS) total

test-unit: $(UNIT_TESTS)
	@$(RUN_TESTS) unit $(UNIT_TESTS)

test-python: programs openblas $(DEMO_DATA) $(B)/tools/train_vocab
	@$(RUN_TESTS) pytest tests/parity tests/integration tests/fault

unit: unit-programs ## build and run the C unit tests alone
	@rm -f build/results/unit.jsonl
	@$(MAKE) --no-print-directory RESULTS=build/results/unit.jsonl test-unit
	@$(PYTHON) tests/support/run_tests.py --results build/results/unit.jsonl total

unit-programs: $(UNIT_TESTS)

lint: ## warnings as errors, who may include whom, banned functions, scripts
	@$(PYTHON) tools/lint/check_source.py
	@$(SUBMAKE) -s MODE=lint objects
	@echo "lint: no finding"

objects: $(OBJ_shared) $(OBJ_preprocessd) $(OBJ_trainer) $(call obj,$(wildcard preprocessd/main.c trainer/main.c) $(SRC_prepctl) \
	$(SRC_demo) $(SRC_test_support) $(wildcard tests/unit/test_*.c tests/fault/*.c tests/parity/*.c tools/bench/*.c tools/vocab/*.c))

# What a daemon and several clients of it do, the hostile ones among them.
TESTS_OF_DAEMON := tests/integration/test_daemon.py tests/integration/test_batches.py tests/integration/test_datasets.py \
	tests/integration/test_rights.py tests/integration/test_upkeep.py tests/fault/test_hostile_files.py tests/fault/test_hostile_clients.py

check-asan: ## unit tests and a real daemon under AddressSanitizer and UBSan
	@rm -f build/results/asan.jsonl
	@$(SUBMAKE) -s MODE=asan unit-programs build/asan/bin/preprocessd build/asan/bin/prepctl
	@$(MAKE) --no-print-directory MODE=asan RESULTS=build/results/asan.jsonl test-unit
	@MODE=asan $(PYTHON) tests/support/run_tests.py --results build/results/asan.jsonl pytest $(TESTS_OF_DAEMON)
	@$(PYTHON) tests/support/run_tests.py --results build/results/asan.jsonl total

check-asan-all: ## every test of `make test` under AddressSanitizer and UBSan; takes hours
	@rm -f build/results/asan.jsonl
	@$(SUBMAKE) -s MODE=asan all openblas unit-programs build/asan/demo/make_demo_data build/asan/tools/train_vocab
	@PYTEST_LIMIT_S=$${PYTEST_LIMIT_S:-21600} $(MAKE) --no-print-directory MODE=asan RESULTS=build/results/asan.jsonl test-unit test-python
	@$(PYTHON) tests/support/run_tests.py --results build/results/asan.jsonl total

check-tsan: ## the same for daemon and client library under ThreadSanitizer
	@rm -f build/results/tsan.jsonl
	@$(SUBMAKE) -s MODE=tsan tsan-programs
	@$(MAKE) --no-print-directory MODE=tsan RESULTS=build/results/tsan.jsonl tsan-run
	@$(PYTHON) tests/support/run_tests.py --results build/results/tsan.jsonl total

.PHONY: tsan-programs
tsan-programs: $(UNIT_TESTS_TSAN) $(B)/bin/preprocessd $(B)/bin/prepctl
# Address-space randomization of newer kernels is more than TSan of GCC 12 copes with.
NO_ASLR := $(shell setarch -R true 2>/dev/null && echo setarch -R)
tsan-run: tsan-programs
	@$(NO_ASLR) $(RUN_TESTS) unit $(UNIT_TESTS_TSAN)
	@TSAN_OPTIONS=halt_on_error=1:suppressions=$(CURDIR)/tests/support/tsan.supp $(NO_ASLR) $(RUN_TESTS) pytest $(TESTS_OF_DAEMON)

fuzz: ## build the fuzz targets with clang and run each for FUZZ_SECONDS (10)
	@rm -f build/results/fuzz.jsonl
	@$(SUBMAKE) -s MODE=fuzz fuzz-programs
	@$(MAKE) --no-print-directory MODE=fuzz RESULTS=build/results/fuzz.jsonl fuzz-run
	@$(PYTHON) tests/support/run_tests.py --results build/results/fuzz.jsonl total

fuzz-programs: $(FUZZERS)

fuzz-run: $(FUZZERS)
	@$(RUN_TESTS) fuzz $(FUZZERS)

benches: $(BENCHES)

bench: ## measure pipeline and training step beside their peers (about an hour); writes build/bench.md
	@tools/install-deps.sh --test
	@$(SUBMAKE) -s MODE=release all openblas benches build/release/demo/make_demo_data build/release/tools/train_vocab
	@$(PYTHON) tools/bench/run.py --out build/bench.md

# In quotes where they are used: a blank in a folder's name must not make uninstall remove another one.
BINDIR = $(DESTDIR)$(PREFIX)/bin
DOCDIR = $(DESTDIR)$(PREFIX)/share/doc/preprocessd

install: all ## copy the programs and documents below PREFIX (/usr/local)
	install -d "$(BINDIR)" "$(DOCDIR)/docs/study" "$(DOCDIR)/schemas"
	install -m 755 $(PROGRAMS) "$(BINDIR)/"
	install -m 644 README.md ARCHITECTURE.md LICENSE "$(DOCDIR)/"
	install -m 644 $(wildcard docs/*.md) "$(DOCDIR)/docs/"
	install -m 644 $(wildcard docs/study/*) "$(DOCDIR)/docs/study/"
	install -m 644 $(wildcard schemas/*) "$(DOCDIR)/schemas/"

uninstall: ## remove what install put there
	rm -f "$(BINDIR)/preprocessd" "$(BINDIR)/prepctl" "$(BINDIR)/trainer"
	rm -rf "$(DOCDIR)"

clean: ## remove build/
	rm -rf build

# Everything is rebuilt when the flags change.
STAMP := $(B)/flags
FLAGS_NOW := $(CC) $(CFLAGS_ALL) $(CFLAGS_TRAINER) $(LDFLAGS_ALL)
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(strip $(FLAGS_NOW)))
$(shell mkdir -p $(B) && printf '%s\n' '$(strip $(FLAGS_NOW))' > $(STAMP))
endif

# One list of what is missing, in place of pages of compiler errors.
DEPS_OK := $(B)/deps-ok
$(DEPS_OK): tools/check-deps.sh
	@CC="$(CC)" tools/check-deps.sh && touch $@

$(B)/gen/%.pb-c.c $(B)/gen/%.pb-c.h: schemas/%.proto | $(DEPS_OK)
	@mkdir -p $(B)/gen
	$(call say,PROTO $<)
	$(Q)protoc-c --c_out=$(B)/gen --proto_path=schemas $<

$(B)/obj/gen/%.o: $(B)/gen/%.c $(STAMP) | $(DEPS_OK)
	@mkdir -p $(@D)
	$(call say,CC $<)
	$(Q)$(CC) $(CFLAGS_ALL) -w -MMD -MP -c $< -o $@

$(B)/obj/trainer/%.o: trainer/%.c $(STAMP) | $(GEN_H) $(DEPS_OK)
	@mkdir -p $(@D)
	$(call say,CC $<)
	$(Q)$(CC) $(CFLAGS_ALL) $(CFLAGS_TRAINER) -MMD -MP -c $< -o $@

$(B)/obj/tools/bench/%.o: tools/bench/%.c $(STAMP) | $(GEN_H) $(DEPS_OK)
	@mkdir -p $(@D)
	$(call say,CC $<)
	$(Q)$(CC) $(CFLAGS_ALL) $(CFLAGS_TRAINER) -MMD -MP -c $< -o $@

$(B)/obj/%.o: %.c $(STAMP) | $(GEN_H) $(DEPS_OK)
	@mkdir -p $(@D)
	$(call say,CC $<)
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

define archive
$(1): $(2)
	@rm -f $$@
	$$(call say,AR $$@)
	$$(Q)ar rcs $$@ $$^
endef
$(eval $(call archive,$(LIB_shared),$(OBJ_shared)))
$(eval $(call archive,$(LIB_preprocessd),$(OBJ_preprocessd)))
$(eval $(call archive,$(LIB_trainer),$(OBJ_trainer)))
$(if $(LIB_test),$(eval $(call archive,$(LIB_test),$(call obj,$(SRC_test_support)))))

$(B)/bin/preprocessd: $(B)/obj/preprocessd/main.o $(LIB_preprocessd) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS_DAEMON) $(LIBS_SHARED) -o $@

$(B)/bin/prepctl: $(call obj,$(SRC_prepctl)) $(LIB_preprocessd) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS_DAEMON) $(LIBS_SHARED) -o $@

$(B)/bin/trainer: $(B)/obj/trainer/main.o $(LIB_trainer) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS_TRAINER) $(LIBS_SHARED) -o $@

# ONEDNN=0 changes these objects and what is linked, nothing else.
SRC_onednn := $(wildcard trainer/kernels/onednn_*.c)
OBJ_openblas := $(filter-out $(call obj,$(SRC_onednn)),$(OBJ_trainer)) $(SRC_onednn:%.c=$(B)/obj/openblas/%.o)

$(B)/obj/openblas/%.o: %.c $(STAMP) | $(GEN_H) $(DEPS_OK)
	@mkdir -p $(@D)
	$(call say,CC $< (OpenBLAS alone))
	$(Q)$(CC) $(CFLAGS_ALL) $(filter-out -DHAVE_ONEDNN=1,$(CFLAGS_TRAINER)) -MMD -MP -c $< -o $@

$(B)/openblas/trainer: $(B)/obj/trainer/main.o $(OBJ_openblas) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(filter-out -ldnnl,$(LIBS_TRAINER)) $(LIBS_SHARED) -o $@

$(B)/tests/%: $(B)/obj/tests/unit/%.o $(LIB_test) $(LIB_preprocessd) $(LIB_trainer) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS_DAEMON) $(LIBS_TRAINER) $(LIBS_SHARED) -lcmocka -o $@

# Loops for AVX-512 in plain C, for processors without it: the daemon's, and the trainer's products.
# Not vectorized again: GCC 14 finds the dot product of bytes in them and breaks off with an internal error.
emulated = $(patsubst %.c,$(B)/obj/emulated/%.o,$(1))

$(B)/obj/emulated/%.o: %.c tests/emulated/immintrin.h $(STAMP) | $(GEN_H) $(DEPS_OK)
	@mkdir -p $(@D)
	$(call say,CC $< (AVX-512 emulated))
	$(Q)$(CC) -Itests/emulated -DEMULATED_AVX512=1 $(CFLAGS_ALL) -fno-tree-vectorize -Wno-psabi -MMD -MP -c $< -o $@

$(B)/tests/test_resize_emulated: $(B)/obj/tests/unit/test_resize.o $(call emulated,preprocessd/codec/resize_avx512.c \
	preprocessd/codec/normalize_x86.c) $(LIB_test) $(LIB_preprocessd) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS_DAEMON) $(LIBS_SHARED) -lcmocka -o $@

$(B)/tests/test_tiles_emulated: $(B)/obj/tests/unit/test_tiles.o $(call emulated,trainer/kernels/gemm_avx512.c \
	trainer/kernels/winograd_avx512.c) $(LIB_test) $(LIB_trainer) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS_TRAINER) $(LIBS_SHARED) -lcmocka -o $@

$(B)/tests/test_gemm_bf16_emulated: $(B)/obj/tests/unit/test_gemm_bf16.o $(call emulated,trainer/kernels/gemm_avx512_bf16.c) \
	$(LIB_test) $(LIB_trainer) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS_TRAINER) $(LIBS_SHARED) -lcmocka -o $@

# The model and the reference kernels once more, computing in double.
SRC_double := tests/double/test_differences.c $(filter-out %_bf16_ref.c,$(wildcard trainer/nn/*.c trainer/model/*.c trainer/kernels/ref/*.c)) \
	trainer/kernels/random_fill.c trainer/kernels/image_engine.c
OBJ_double := $(SRC_double:%.c=$(B)/obj/double/%.o)

$(B)/obj/double/%.o: %.c tests/double/as_double.h $(STAMP) | $(GEN_H) $(DEPS_OK)
	@mkdir -p $(@D)
	$(call say,CC $< in double)
	$(Q)$(CC) $(CFLAGS_ALL) $(OPENMP) -include tests/double/as_double.h -MMD -MP -c $< -o $@

$(B)/tests/test_differences: $(OBJ_double) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(OPENMP) $(LIBS_SHARED) -lcmocka -o $@

$(B)/tests/layers: $(B)/obj/tests/parity/layers.o $(LIB_trainer) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS_TRAINER) $(LIBS_SHARED) -o $@

# Preloaded into programs under test; without sanitizers, which want to be first.
$(B)/tests/alloc_shim.so: tests/fault/alloc.c
$(B)/tests/fault_shim.so: tests/fault/shim.c
$(B)/tests/alloc_shim.so $(B)/tests/fault_shim.so: $(STAMP)
	@mkdir -p $(@D)
	$(call say,CC $@)
	$(Q)$(CC) $(BASE) -O1 -shared -fPIC $(filter %.c,$^) -o $@ -ldl

$(B)/bin/fuzz_%: $(B)/obj/tests/fuzz/fuzz_%.o $(LIB_test) $(LIB_preprocessd) $(LIB_trainer) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) -fsanitize=fuzzer $^ $(LIBS_DAEMON) $(LIBS_TRAINER) $(LIBS_SHARED) -o $@

$(B)/bench/%: $(B)/obj/tools/bench/%.o $(LIB_preprocessd) $(LIB_trainer) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS_DAEMON) $(LIBS_TRAINER) $(LIBS_SHARED) -o $@

$(DEMO_DATA): $(call obj,$(SRC_demo)) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(call pkg_libs,libjpeg) $(LIBS_SHARED) -o $@

$(B)/tools/train_vocab: $(call obj,$(wildcard tools/vocab/*.c)) $(LIB_preprocessd) $(LIB_shared)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS_DAEMON) $(LIBS_SHARED) -o $@

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
