# SPDX-License-Identifier: Apache-2.0
# Programs that run in the kernel. Their light skeletons carry the loader in them: nothing of libbpf
# is needed where kage runs. -mcpu=v3: every kernel that can run them (6.1) knows it.
CLANG ?= clang
BPFTOOL ?= $(firstword $(wildcard /usr/sbin/bpftool) bpftool)
BPF_CFLAGS := -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter \
	-Wno-address-of-packed-member -fno-asynchronous-unwind-tables
# Where the C library keeps <asm/types.h>; the BPF target does not look there by itself.
BPF_CFLAGS += -idirafter /usr/include/$(shell $(CC) -print-multiarch 2>/dev/null)
# Where arguments of functions are (bpf_tracing.h).
BPF_CFLAGS += -D__TARGET_ARCH_$(patsubst x86_64%,x86,$(patsubst aarch64%,arm64,$(shell $(CC) -dumpmachine | cut -d- -f1)))
BPF_HEADERS := $(patsubst src/sys/bpf/%.bpf.c,$(B)/bpf/%.lskel.h,$(wildcard src/sys/bpf/*.bpf.c))

$(B)/bpf/%.bpf.o: src/sys/bpf/%.bpf.c $(wildcard src/sys/bpf/*.h)
	@mkdir -p $(@D)
	@echo "  BPF  $<"
	$(Q)$(CLANG) $(BPF_CFLAGS) -c $< -o $@
	$(Q)llvm-strip -g $@ 2>/dev/null || llvm-strip-14 -g $@ 2>/dev/null || true

# The pragma keeps our warnings off generated code; the hash names the program where it is pinned.
$(B)/bpf/%.lskel.h: $(B)/bpf/%.bpf.o
	$(Q)(echo '#pragma GCC system_header'; echo '#include <errno.h>'; echo '#include <string.h>'; \
		echo "#define $$(echo $* | tr a-z A-Z)_BPF_HASH \"$$(sha256sum < $< | cut -c1-32)\""; \
		$(BPFTOOL) gen skeleton -L $< name $*_bpf) > $@
