# SPDX-License-Identifier: Apache-2.0
#
#   make          libkage (shared and static) and kage, in build/
#   make test-vm  the tests that boot another kernel in QEMU
#   make demo     shows the main job on real programs (root)
#   make test     installs what is missing, builds, runs every test
#   make bench    measures, beside fork and memcpy
#   make fuzz     fuzzes the parsers, FUZZ_SECONDS each
#   make install  to DESTDIR and PREFIX
#
# Variables: CC, CFLAGS, SANITIZE=address,undefined, B (build directory), V=1 for whole commands.

B ?= build
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
CC ?= gcc
VERSION := 0.1.0
SOVERSION := 0
V ?= 0
Q := $(if $(filter 1,$(V)),,@)

# --- what is compiled ------------------------------------------------------------------------
# The order is the order of layers: each folder includes only those before it (scripts/check-layers).
LAYERS := base image git store sys arch arch/x86_64 target calls kind look core twin capture restore trigger keeper
LIB_SRCS := $(foreach d,$(LAYERS),$(wildcard src/$(d)/*.c))
LIB_ASMS := $(foreach d,$(LAYERS),$(wildcard src/$(d)/*.S))
CLI_SRCS := $(wildcard src/cli/*.c)
PROTOS := image keeper
PROTO_HEADERS := $(PROTOS:%=$(B)/proto/%.pb-c.h)
LIB_OBJS := $(LIB_SRCS:%.c=$(B)/%.o) $(LIB_ASMS:%.S=$(B)/%.o) $(PROTOS:%=$(B)/proto/%.pb-c.o)
CLI_OBJS := $(CLI_SRCS:%.c=$(B)/%.o)
UNIT_TESTS := $(patsubst test/unit/%.c,$(B)/test/unit/%,$(wildcard test/unit/test_*.c))
HELPERS := $(patsubst test/%.c,$(B)/test/%,$(wildcard test/kind/*.c test/programs/*.c test/fault/*.c test/target/*.c test/cli/*.c test/record/*.c test/restore/*.c))
SHIMS := $(patsubst test/%.c,$(B)/test/%.so,$(wildcard test/shim/*.c))
FUZZERS := $(patsubst test/fuzz/%.c,$(B)/fuzz/%,$(wildcard test/fuzz/fuzz_*.c))
BENCHES := $(patsubst bench/%.c,$(B)/bench/%,$(wildcard bench/*.c))

# --- how ----------------------------------------------------------------------------------------
PKGS := libzstd libxxhash libsodium libprotobuf-c jansson libdw libelf libbpf
# Its headers only: libgit2 is loaded when it is needed (src/git/lib.h).
LOADED := libgit2
CFLAGS ?= -O2 -g
WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	-Wundef -Wvla -Wformat=2 -Wno-format-nonliteral
KFLAGS := -std=gnu17 -D_GNU_SOURCE -DKAGE_VERSION_STRING='"$(VERSION)"' -Iinclude -Isrc -I$(B)/proto \
	-I$(B)/bpf -fPIC -fvisibility=hidden -fno-strict-aliasing -pthread $(WARN) \
	$(shell pkg-config --cflags $(PKGS) $(LOADED) 2>/dev/null)
LIBS = $(shell pkg-config --libs $(PKGS) 2>/dev/null) -pthread -ldl
SANITIZE ?=
SAN := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=undefined \
	-Wno-error)

.PHONY: all test test-vm demo bench fuzz install clean check-deps format tests-built compile_commands soak
.DELETE_ON_ERROR:
.SECONDARY:

all: $(B)/libkage.so.$(VERSION) $(B)/libkage.a $(B)/kage

-include src/sys/bpf/bpf.mk

$(B)/proto/%.pb-c.c: proto/%.proto
	@mkdir -p $(@D)
	$(Q)protoc-c --c_out=$(B)/proto -Iproto $<
$(B)/proto/%.pb-c.h: $(B)/proto/%.pb-c.c ;

# Generated code is not held to our warnings.
$(B)/proto/%.pb-c.o: $(B)/proto/%.pb-c.c
	$(Q)$(CC) $(KFLAGS) -w $(CFLAGS) $(SAN) -c $< -o $@

$(B)/src/%.o: src/%.c $(PROTO_HEADERS) | $(BPF_HEADERS)
	@mkdir -p $(@D)
	@$(if $(filter 0,$(V)),echo "  CC   $<")
	$(Q)$(CC) $(KFLAGS) $(CFLAGS) $(SAN) -MMD -MP -c $< -o $@
$(B)/src/%.o: src/%.S
	@mkdir -p $(@D)
	$(Q)$(CC) $(KFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(B)/libkage.a: $(LIB_OBJS)
	@rm -f $@
	$(Q)ar rcs $@ $^
$(B)/libkage.so.$(VERSION): $(LIB_OBJS) src/libkage.map
	@echo "  LD   $@"
	$(Q)$(CC) $(CFLAGS) $(SAN) -shared -Wl,-soname,libkage.so.$(SOVERSION) \
		-Wl,--version-script=src/libkage.map $(if $(SANITIZE),,-Wl,-z,defs) $(LIB_OBJS) -o $@ $(LIBS)
	$(Q)ln -sf libkage.so.$(VERSION) $(B)/libkage.so.$(SOVERSION)
	$(Q)ln -sf libkage.so.$(SOVERSION) $(B)/libkage.so
# kage itself carries libkage in it: one file to copy, and a faster start.
$(B)/kage: $(CLI_OBJS) $(B)/libkage.a
	@echo "  LD   $@"
	$(Q)$(CC) $(CFLAGS) $(SAN) $^ -o $@ $(LIBS)

# --- tests -----------------------------------------------------------------------------------------
$(B)/test/unit/%: test/unit/%.c $(B)/libkage.a $(wildcard test/lib/*.h)
	@mkdir -p $(@D)
	@echo "  CC   $<"
	$(Q)$(CC) $(KFLAGS) -Itest $(CFLAGS) $(SAN) $< $(B)/libkage.a -o $@ -lcmocka $(LIBS)
# Programs that tests take images of: ordinary programs, not linked with kage.
$(B)/test/%: test/%.c $(wildcard test/lib/*.h)
	@mkdir -p $(@D)
	@echo "  CC   $<"
	$(Q)$(CC) -std=gnu17 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Itest $(TARGET_CFLAGS) $< -o $@ -pthread $(TARGET_LIBS)
# What tests load into kage with LD_PRELOAD.
$(B)/test/%.so: test/%.c
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$(Q)$(CC) -std=gnu17 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -fPIC -shared $< -o $@ -pthread

tests-built: all $(UNIT_TESTS) $(HELPERS) $(SHIMS)

test:
	@scripts/install-deps
	@+$(MAKE) --no-print-directory tests-built fuzzers-built
	@B=$(B) test/run

test-vm:
	@scripts/install-deps
	@+$(MAKE) --no-print-directory tests-built
	@B=$(B) test/run vm/

soak: tests-built fuzzers-built
	@B=$(B) KAGE_SOAK=1 FUZZ_SECONDS=$(FUZZ_SECONDS) test/run

demo:
	@scripts/install-deps
	@+$(MAKE) --no-print-directory all
	@B=$(B) scripts/demo

bench: all $(BENCHES)
	@B=$(B) bench/run
	@B=$(B) bench/record
	@B=$(B) bench/redis
	@B=$(B) bench/restore
	@B=$(B) bench/twins
	@B=$(B) bench/triggers
	@$(B)/bench/rfork
	@$(B)/bench/history

$(B)/bench/%: bench/%.c $(B)/libkage.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(KFLAGS) -Itest $(CFLAGS) $< $(B)/libkage.a -o $@ $(LIBS)

# --- fuzzing: clang's libFuzzer over the pure parsers ------------------------------------------------
FUZZ_SECONDS ?= 60
FUZZ_SRCS := $(LIB_SRCS) $(filter-out src/cli/main.c,$(CLI_SRCS))
FUZZ_OBJS := $(FUZZ_SRCS:%.c=$(B)/fuzz/obj/%.o) $(LIB_ASMS:%.S=$(B)/fuzz/obj/%.o) \
	$(PROTOS:%=$(B)/fuzz/obj/proto/%.pb-c.o)
FUZZ_CC = clang -g -O1 $(filter-out -Werror,$(KFLAGS)) -Itest -w -fno-omit-frame-pointer \
	-fsanitize=address,undefined -fno-sanitize-recover=undefined

$(B)/fuzz/obj/%.o: %.c $(PROTO_HEADERS) | $(BPF_HEADERS)
	@mkdir -p $(@D)
	$(Q)$(FUZZ_CC) -fsanitize=fuzzer-no-link -MMD -MP -c $< -o $@
$(B)/fuzz/obj/%.o: %.S
	@mkdir -p $(@D)
	$(Q)$(FUZZ_CC) -MMD -MP -c $< -o $@
$(B)/fuzz/obj/proto/%.pb-c.o: $(B)/proto/%.pb-c.c
	@mkdir -p $(@D)
	$(Q)$(FUZZ_CC) -fsanitize=fuzzer-no-link -c $< -o $@
$(B)/fuzz/libkage.a: $(FUZZ_OBJS)
	@rm -f $@
	$(Q)ar rcs $@ $^
$(B)/fuzz/%: test/fuzz/%.c $(B)/fuzz/libkage.a $(wildcard test/lib/*.h)
	@mkdir -p $(@D)
	@echo "  FUZZ $<"
	$(Q)$(FUZZ_CC) -fsanitize=fuzzer $< $(B)/fuzz/libkage.a -o $@ $(LIBS)
.PHONY: fuzzers-built
fuzzers-built: $(FUZZERS)
fuzz: $(FUZZERS)
	@B=$(B) FUZZ_SECONDS=$(FUZZ_SECONDS) test/fuzz/run $(notdir $(FUZZERS))

# --- the rest ----------------------------------------------------------------------------------------
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(PREFIX)/include/kage
	install -m 755 $(B)/kage $(DESTDIR)$(PREFIX)/bin/kage
	install -m 755 $(B)/libkage.so.$(VERSION) $(DESTDIR)$(LIBDIR)/
	ln -sf libkage.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libkage.so.$(SOVERSION)
	ln -sf libkage.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libkage.so
	install -m 644 $(B)/libkage.a $(DESTDIR)$(LIBDIR)/
	install -m 644 include/kage/*.h $(DESTDIR)$(PREFIX)/include/kage/
	sed -e 's|@PREFIX@|$(PREFIX)|;s|@LIBDIR@|$(LIBDIR)|;s|@VERSION@|$(VERSION)|' src/kage.pc.in \
		> $(DESTDIR)$(LIBDIR)/pkgconfig/kage.pc
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man3 \
		$(DESTDIR)$(PREFIX)/share/man/man5
	install -m 644 doc/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 644 doc/man/*.3 $(DESTDIR)$(PREFIX)/share/man/man3/
	install -m 644 doc/man/*.5 $(DESTDIR)$(PREFIX)/share/man/man5/
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 644 scripts/completion.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/kage

format:
	clang-format -i $$(git ls-files '*.c' '*.h')

clean:
	rm -rf $(B)

-include $(LIB_OBJS:.o=.d) $(CLI_OBJS:.o=.d) $(FUZZ_OBJS:.o=.d)
