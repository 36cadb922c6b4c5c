# SPDX-License-Identifier: Apache-2.0
# Completion of kage for bash: commands, options, histories, images, PIDs.
#
# Options come from `kage COMMAND --help`, so that they are always those of the kage at hand.

# "snap" and the like, from the overview.
_kage_commands() {
	kage --help 2>/dev/null | awk '/^Commands/ { on = 1; next } /^$/ { on = 0 } on { print $1 }'
}

_kage_options() {
	kage "$1" --help 2>/dev/null | grep -oE -- '^ +(-[a-z], )?--[a-z-]+' | grep -oE -- '--[a-z-]+'
}

# The words that an option takes: "--pid same|new".
_kage_choices() {
	kage "$1" --help 2>/dev/null | grep -E -- "^ +(-[a-z], )?$2 " |
		grep -oE -- '[a-z0-9]+(\|[a-z0-9]+)+' | tr '|' '\n'
}

# The first column of `kage log`, in the store that the line names.
_kage_log() { kage "${store[@]}" log "$@" 2>/dev/null | awk 'NR > 1 { print $1 }'; }

_kage_histories() { _kage_log | sed 's/@[^@]*$//' | sort -u; }

# NAME, or after "NAME@" what may follow.
_kage_images() {
	local name=${1%@*}

	if [[ $1 == *@* ]]; then
		_kage_log "$name"
		kage "${store[@]}" tag "$name" 2>/dev/null | awk -v n="$name" 'NR > 1 { print n "@" $1 }'
		printf '%s\n' "$name@latest" "$name@first"
	else
		_kage_histories
	fi
}

_kage_pids() {
	local path
	for path in /proc/[0-9]*; do
		[[ -O $path || $EUID == 0 ]] && echo "${path#/proc/}"
	done
}

# Sets COMPREPLY to those of the words on standard input that begin with $1. Readline may take '@' as
# the end of a word: then what stands before it is not to be repeated.
_kage_reply() {
	local word kept=""
	[[ $1 == *@* && $COMP_WORDBREAKS == *@* ]] && kept=${1%@*}@
	while read -r word; do
		[[ $word == "$1"* ]] && COMPREPLY+=("${word#"$kept"}")
	done
}

# Sets COMPREPLY to the paths, with -d only directories, that begin with $2, which may be --option=PATH. A
# leading ~ is expanded to look, and kept. Readline takes '=' as the end of a word, too.
_kage_paths() {
	local path=${2#--*=} kept="" home="" found
	[[ $2 == --*=* && $COMP_WORDBREAKS != *=* ]] && kept=${2%%=*}=
	[[ $path == "~"/* ]] && home=$HOME path=$HOME${path#"~"}
	compopt -o filenames 2>/dev/null
	while IFS= read -r found; do
		[[ -n $home ]] && found="~"${found#"$home"}
		COMPREPLY+=("$kept$found")
	done < <(compgen "$1" -- "$path")
}

_kage_arguments() {
	case $1 in
	snap | call) _kage_pids ;;
	check) [[ $cur == [0-9]* ]] || _kage_images "$cur"; _kage_pids ;;
	show | cat | diff | tag | try | restore | core | gdb | rm) _kage_images "$cur" ;;
	log | fsck | du | bisect) _kage_histories ;;
	key) printf '%s\n' new show ;;
	help) _kage_commands ;;
	esac
}

_kage() {
	# Split at blanks only, whatever readline thinks of '@', '=' and ':'.
	local line=${COMP_LINE:0:COMP_POINT} cur prev command="" i
	local -a words store=()
	read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] && words+=("")
	cur=${words[-1]}
	prev=${words[${#words[@]} - 2]}
	COMPREPLY=()
	for ((i = 1; i < ${#words[@]} - 1; i++)); do
		if [[ ${words[i]} == --store ]]; then
			store=(--store "${words[++i]}")
		elif [[ -z $command && ${words[i]} != -* ]]; then
			command=${words[i]}
		fi
	done
	if [[ $prev == --store || $prev == --git || $cur == --store=* || $cur == --git=* ]]; then
		_kage_paths -d "$cur"
	elif [[ $prev == -o || $prev == --output || $prev == --tty || $prev == --stdin || $prev == -i || $prev == --key || $prev == --recipient || $cur == --key=* || $cur == --output=* || $cur == --tty=* ]]; then
		_kage_paths -f "$cur"
	elif [[ $prev == --name || $prev == -n ]]; then
		_kage_reply "$cur" < <(_kage_histories)
	elif [[ -z $command && $cur == -* ]]; then
		_kage_reply "$cur" < <(printf '%s\n' --store --json --help --version)
	elif [[ -z $command ]]; then
		_kage_reply "$cur" < <(_kage_commands; echo help)
	elif [[ $cur == -* ]]; then
		_kage_reply "$cur" < <(_kage_options "$command")
	elif [[ $prev == --* && -n $(_kage_choices "$command" "$prev") ]]; then
		_kage_reply "$cur" < <(_kage_choices "$command" "$prev")
	elif [[ $command == key && $prev != key ]]; then
		_kage_paths -f "$cur"
	elif [[ $command == run ]]; then
		compopt -o default 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -c -- "$cur")
	else
		_kage_reply "$cur" < <(_kage_arguments "$command")
	fi
}

complete -F _kage kage
