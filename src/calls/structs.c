/* SPDX-License-Identifier: Apache-2.0 */
/* Structures of system calls as they lie in memory on x86-64, by the headers and, if newer, the BTF of Linux 6.18. */
#include "base/cleanup.h"
#include "calls/tables.h"

/* clang-format off */
const struct calls_struct calls_structs[] = {
	{ "cachestat", 40,
	  "nr_cache:u64 nr_dirty:u64 nr_writeback:u64 nr_evicted:u64 nr_recently_evicted:u64" },
	{ "cachestat_range", 16, "off:u64 len:u64" },
	/* The lower words of all three sets, then the upper ones. */
	{ "cap_data", 24,
	  "effective:flags:cap_low/u32 permitted:flags:cap_low/u32 "
	  "inheritable:flags:cap_low/u32 effective_high:flags:cap_high/u32 "
	  "permitted_high:flags:cap_high/u32 inheritable_high:flags:cap_high/u32" },
	{ "cap_header", 8, "version:enum:cap_version/u32 pid:s32" },
	{ "clone_args", 88,
	  "flags:flags:clone3/u64 pidfd:ptr child_tid:ptr parent_tid:ptr "
	  "exit_signal:enum:signal/u64 stack:ptr stack_size:u64 tls:ptr set_tid:ptr "
	  "set_tid_size:u64 cgroup:u64" },
	{ "epoll_event", 12, "events:flags:epoll_events/u32 data@4:u64" },
	{ "f_owner_ex", 8, "type:enum:owner/s32 pid:s32" },
	{ "fd_set", 128, "fds_bits:bytes[128]" },
	{ "file_attr", 24,
	  "fa_xflags:flags:file_attr/u64 fa_extsize:u32 fa_nextents:u32 fa_projid:u32 "
	  "fa_cowextsize:u32" },
	{ "file_handle", 136, "handle_bytes:u32 handle_type:s32 f_handle:bytes[128]" },
	{ "flock", 32,
	  "l_type:enum:flock_type/s16 l_whence:enum:whence/s16 l_start:s64 l_len:s64 l_pid:s32" },
	{ "futex_waitv", 24, "val:u64 uaddr:ptr flags:flags:futex2/u32 _reserved:u32" },
	{ "io_cqring_offsets", 40,
	  "head:u32 tail:u32 ring_mask:u32 ring_entries:u32 overflow:u32 cqes:u32 flags:u32 "
	  "_resv1:u32 user_addr:ptr" },
	{ "io_event", 32, "data:u64 obj:ptr res:s64 res2:s64" },
	{ "io_sqring_offsets", 40,
	  "head:u32 tail:u32 ring_mask:u32 ring_entries:u32 flags:u32 dropped:u32 array:u32 "
	  "_resv1:u32 user_addr:ptr" },
	{ "io_uring_params", 120,
	  "sq_entries:u32 cq_entries:u32 flags:flags:io_uring_setup/u32 sq_thread_cpu:u32 "
	  "sq_thread_idle:u32 features:flags:io_uring_features/u32 wq_fd:u32 _resv:u32[3] "
	  "sq_off:io_sqring_offsets cq_off:io_cqring_offsets" },
	{ "iocb", 64,
	  "aio_data:u64 aio_key:u32 aio_rw_flags:flags:rwf/u32 aio_lio_opcode:enum:iocb/u16 "
	  "aio_reqprio:s16 aio_fildes:u32 aio_buf:ptr aio_nbytes:u64 aio_offset:s64 "
	  "_aio_reserved2:u64 aio_flags:u32 aio_resfd:u32" },
	{ "iovec", 16, "iov_base:ptr iov_len:u64" },
	{ "ipc_perm", 48,
	  "key:s32 uid:u32 gid:u32 cuid:u32 cgid:u32 mode:octal/u32 seq:u16 _pad:u16 "
	  "_unused:u64[2]" },
	{ "itimerspec", 32, "it_interval:timespec it_value:timespec" },
	{ "itimerval", 32, "it_interval:timeval it_value:timeval" },
	{ "kexec_segment", 32, "buf:ptr bufsz:u64 mem:ptr memsz:u64" },
	/* A descriptor or, of LANDLOCK_RULE_NET_PORT, a port. */
	{ "landlock_rule_attr", 16, "allowed_access:flags:landlock_fs/u64 object:u64" },
	{ "landlock_ruleset_attr", 24,
	  "handled_access_fs:flags:landlock_fs/u64 handled_access_net:flags:landlock_net/u64 "
	  "scoped:flags:landlock_scope/u64" },
	{ "linger", 8, "l_onoff:s32 l_linger:s32" },
	{ "mmsghdr", 64, "msg_hdr:msghdr msg_len:u32" },
	{ "mnt_id_req", 32,
	  "size:u32 mnt_ns_fd:u32 mnt_id:u64 param:flags:statmount/u64 mnt_ns_id:u64" },
	{ "mount_attr", 32,
	  "attr_set:flags:mount_attr/u64 attr_clr:flags:mount_attr/u64 "
	  "propagation:flags:mount/u64 userns_fd:u64" },
	{ "mq_attr", 64,
	  "mq_flags:flags:o_nonblock/s64 mq_maxmsg:s64 mq_msgsize:s64 mq_curmsgs:s64 "
	  "_reserved:s64[4]" },
	{ "msghdr", 56,
	  "msg_name:ptr msg_namelen:s32 msg_iov:ptr msg_iovlen:u64 msg_control:ptr "
	  "msg_controllen:u64 msg_flags:flags:msg/u32" },
	{ "msqid_ds", 120,
	  "msg_perm:ipc_perm msg_stime:s64 msg_rtime:s64 msg_ctime:s64 msg_cbytes:u64 "
	  "msg_qnum:u64 msg_qbytes:u64 msg_lspid:s32 msg_lrpid:s32 _unused:u64[2]" },
	{ "nodemask", 128, "nodes:u64[16]" },
	{ "open_how", 24, "flags:flags:open/u64 mode:octal/u64 resolve:flags:resolve/u64" },
	{ "perf_event_attr", 136,
	  "type:enum:perf_type/u32 size:u32 config:u64 sample_period:u64 "
	  "sample_type:flags:perf_sample/u64 read_format:flags:perf_format/u64 bits:u64 "
	  "wakeup_events:u32 bp_type:u32 config1:u64 config2:u64 branch_sample_type:u64 "
	  "sample_regs_user:u64 sample_stack_user:u32 clockid:enum:clock/s32 "
	  "sample_regs_intr:u64 aux_watermark:u32 sample_max_stack:u16 _reserved_2:u16 "
	  "aux_sample_size:u32 aux_action:u32 sig_data:u64 config3:u64" },
	{ "pollfd", 8, "fd:s32 events:flags:poll/u16 revents:flags:poll/u16" },
	{ "rlimit", 16, "rlim_cur:enum:rlim/u64 rlim_max:enum:rlim/u64" },
	{ "rusage", 144,
	  "ru_utime:timeval ru_stime:timeval ru_maxrss:s64 ru_ixrss:s64 ru_idrss:s64 "
	  "ru_isrss:s64 ru_minflt:s64 ru_majflt:s64 ru_nswap:s64 ru_inblock:s64 ru_oublock:s64 "
	  "ru_msgsnd:s64 ru_msgrcv:s64 ru_nsignals:s64 ru_nvcsw:s64 ru_nivcsw:s64" },
	{ "sched_attr", 56,
	  "size:u32 sched_policy:flags:sched/u32 sched_flags:flags:sched_attr/u64 "
	  "sched_nice:s32 sched_priority:u32 sched_runtime:u64 sched_deadline:u64 "
	  "sched_period:u64 sched_util_min:u32 sched_util_max:u32" },
	{ "sched_param", 4, "sched_priority:s32" },
	{ "sembuf", 6, "sem_num:u16 sem_op:s16 sem_flg:flags:semop/u16" },
	{ "semid_ds", 104,
	  "sem_perm:ipc_perm sem_otime:s64 _unused1:u64 sem_ctime:s64 _unused2:u64 "
	  "sem_nsems:u64 _unused3:u64 _unused4:u64" },
	{ "shmid_ds", 112,
	  "shm_perm:ipc_perm shm_segsz:u64 shm_atime:s64 shm_dtime:s64 shm_ctime:s64 "
	  "shm_cpid:s32 shm_lpid:s32 shm_nattch:u64 _unused:u64[2]" },
	{ "sigaction", 32, "sa_handler:ptr sa_flags:flags:sa/u64 sa_restorer:ptr sa_mask:sigset" },
	{ "sigevent", 64,
	  "sigev_value:u64 sigev_signo:enum:signal/s32 sigev_notify:enum:sigev_notify/s32 "
	  "sigev_notify_thread_id:s32 _rest:bytes[44]" },
	/* As a signal that was queued has it; below, as the end of a child. */
	{ "siginfo", 128,
	  "si_signo:enum:signal/s32 si_errno:s32 si_code:enum:si_code/s32 _pad:s32 si_pid:s32 "
	  "si_uid:u32 si_value:u64 _rest:bytes[96]" },
	{ "siginfo_child", 128,
	  "si_signo:enum:signal/s32 si_errno:s32 si_code:enum:cld/s32 _pad:s32 si_pid:s32 "
	  "si_uid:u32 si_status:s32 _pad2:s32 si_utime:s64 si_stime:s64 _rest:bytes[80]" },
	{ "sigset", 8, "signals:flags:sigset/u64" },
	/* The sixth argument of pselect6 and io_pgetevents. */
	{ "sigset_arg", 16, "ss:ptr ss_len:u64" },
	{ "sockaddr", 16, "sa_family:enum:af/u16 sa_data:bytes[14]" },
	{ "sockaddr_in", 16,
	  "sin_family:enum:af/u16 sin_port:bytes[2] sin_addr:bytes[4] _sin_zero:bytes[8]" },
	{ "sockaddr_in6", 28,
	  "sin6_family:enum:af/u16 sin6_port:bytes[2] sin6_flowinfo:u32 sin6_addr:bytes[16] "
	  "sin6_scope_id:u32" },
	{ "sockaddr_un", 110, "sun_family:enum:af/u16 sun_path:chars[108]" },
	{ "stack", 24, "ss_sp:ptr ss_flags:flags:ss/u32 ss_size:u64" },
	{ "stat", 144,
	  "st_dev:u64 st_ino:u64 st_nlink:u64 st_mode:octal/u32 st_uid:u32 st_gid:u32 _pad0:u32 "
	  "st_rdev:u64 st_size:s64 st_blksize:s64 st_blocks:s64 st_atim:timespec "
	  "st_mtim:timespec st_ctim:timespec _unused:s64[3]" },
	{ "statfs", 120,
	  "f_type:enum:fs_magic/s64 f_bsize:s64 f_blocks:u64 f_bfree:u64 f_bavail:u64 "
	  "f_files:u64 f_ffree:u64 f_fsid:s32[2] f_namelen:s64 f_frsize:s64 "
	  "f_flags:flags:statfs/u64 _spare:s64[4]" },
	{ "statmount", 512,
	  "size:u32 mnt_opts:u32 mask:flags:statmount/u64 sb_dev_major:u32 sb_dev_minor:u32 "
	  "sb_magic:enum:fs_magic/u64 sb_flags:flags:mount/u32 fs_type:u32 mnt_id:u64 "
	  "mnt_parent_id:u64 mnt_id_old:u32 mnt_parent_id_old:u32 mnt_attr:flags:mount_attr/u64 "
	  "mnt_propagation:flags:mount/u64 mnt_peer_group:u64 mnt_master:u64 propagate_from:u64 "
	  "mnt_root:u32 mnt_point:u32 mnt_ns_id:u64 fs_subtype:u32 sb_source:u32 opt_num:u32 "
	  "opt_array:u32 opt_sec_num:u32 opt_sec_array:u32 supported_mask:flags:statmount/u64 "
	  "mnt_uidmap_num:u32 mnt_uidmap:u32 mnt_gidmap_num:u32 mnt_gidmap:u32 _spare2:u64[43]" },
	{ "statx", 256,
	  "stx_mask:flags:statx_mask/u32 stx_blksize:u32 stx_attributes:flags:statx_attr/u64 "
	  "stx_nlink:u32 stx_uid:u32 stx_gid:u32 stx_mode:octal/u16 _spare0:u16 stx_ino:u64 "
	  "stx_size:u64 stx_blocks:u64 stx_attributes_mask:flags:statx_attr/u64 "
	  "stx_atime:statx_timestamp stx_btime:statx_timestamp stx_ctime:statx_timestamp "
	  "stx_mtime:statx_timestamp stx_rdev_major:u32 stx_rdev_minor:u32 stx_dev_major:u32 "
	  "stx_dev_minor:u32 stx_mnt_id:u64 stx_dio_mem_align:u32 stx_dio_offset_align:u32 "
	  "stx_subvol:u64 stx_atomic_write_unit_min:u32 stx_atomic_write_unit_max:u32 "
	  "stx_atomic_write_segments_max:u32 stx_dio_read_offset_align:u32 "
	  "stx_atomic_write_unit_max_opt:u32 _spare2:u32 _spare3:u64[8]" },
	{ "statx_timestamp", 16, "tv_sec:s64 tv_nsec:u32 _reserved:s32" },
	{ "sysinfo", 112,
	  "uptime:s64 loads:u64[3] totalram:u64 freeram:u64 sharedram:u64 bufferram:u64 "
	  "totalswap:u64 freeswap:u64 procs:u16 _pad:u16 totalhigh:u64 freehigh:u64 "
	  "mem_unit:u32" },
	{ "termios", 36,
	  "c_iflag:u32 c_oflag:u32 c_cflag:u32 c_lflag:u32 c_line:u8 c_cc:bytes[19]" },
	{ "timespec", 16, "tv_sec:s64 tv_nsec:s64" },
	{ "timeval", 16, "tv_sec:s64 tv_usec:s64" },
	{ "timex", 208,
	  "modes:flags:adjtimex/u32 offset:s64 freq:s64 maxerror:s64 esterror:s64 "
	  "status:flags:timex_status/u32 constant:s64 precision:s64 tolerance:s64 time:timeval "
	  "tick:s64 ppsfreq:s64 jitter:s64 shift:s32 stabil:s64 jitcnt:s64 calcnt:s64 "
	  "errcnt:s64 stbcnt:s64 tai:s32 _reserved:s32[11]" },
	{ "timezone", 8, "tz_minuteswest:s32 tz_dsttime:s32" },
	{ "tms", 32, "tms_utime:s64 tms_stime:s64 tms_cutime:s64 tms_cstime:s64" },
	{ "ucred", 12, "pid:s32 uid:u32 gid:u32" },
	{ "user_desc", 16, "entry_number:u32 base_addr:u32 limit:u32 flags:u32" },
	{ "ustat", 32, "f_tfree:s32 f_tinode:u64 f_fname:chars[6] f_fpack:chars[6]" },
	{ "utimbuf", 16, "actime:s64 modtime:s64" },
	{ "utsname", 390,
	  "sysname:chars[65] nodename:chars[65] release:chars[65] version:chars[65] "
	  "machine:chars[65] domainname:chars[65]" },
	{ "winsize", 8, "ws_row:u16 ws_col:u16 ws_xpixel:u16 ws_ypixel:u16" },
	{ "xattr_args", 16, "value:ptr size:u32 flags:flags:xattr/u32" },
};
/* clang-format on */

const size_t calls_n_structs = ARRAY_SIZE(calls_structs);
