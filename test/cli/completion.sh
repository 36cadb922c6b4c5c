#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Completion for bash: loads, and offers commands, options, words of options and PIDs.
. "$(dirname "$0")/lib.bash"

mkdir "$tmp/bin"
ln -s "$KAGE" "$tmp/bin/kage"
PATH=$tmp/bin:$PATH

# complete_line LINE: what is offered at its end, on one line.
complete_line() {
	COMP_LINE=$1
	COMP_POINT=${#1}
	COMPREPLY=()
	_kage 2>>"$tmp/complaints"
	printf '%s\n' "${COMPREPLY[@]}" | sort | paste -sd' '
}

bash -n scripts/completion.bash
ok $? "it is bash"
. scripts/completion.bash
is "$(complete -p kage)" "complete -F _kage kage" "it is registered"
is "$(complete_line 'kage res')" "restore" "a command"
is "$(complete_line 'kage ' | wc -w)" $(($(commands | wc -l) + 1)) "all commands and help"
is "$(complete_line 'kage --v')" "--version" "an option before the command"
is "$(complete_line 'kage snap --na')" "--name" "an option of a command"
for c in $(commands); do
	shown=$("$KAGE" "$c" --help | grep -cE -- '^ +(-[a-z], )?--[a-z-]+')
	is "$(complete_line "kage $c -" | wc -w)" "$shown" "all options of $c"
done
is "$(complete_line 'kage restore --pid ')" "new same" "the words of an option"
is "$(complete_line 'kage restore --files r')" "restore" "one of the words of an option"
like " $(complete_line 'kage snap ') " " $$ " "PIDs"
is "$(complete_line 'kage help sn')" "snap" "commands after help"

mkdir -p "$tmp/paths/directory"
touch "$tmp/paths/file"
is "$(complete_line "kage --store $tmp/paths/")" "$tmp/paths/directory" "directories after --store"
is "$(complete_line "kage log --store $tmp/paths/d")" "$tmp/paths/directory" "behind the command, too"
is "$(COMP_WORDBREAKS=' =' complete_line "kage log --store=$tmp/paths/d")" "$tmp/paths/directory" \
	"and behind --store="
is "$(complete_line "kage core x -o $tmp/paths/")" "$tmp/paths/directory $tmp/paths/file" "files after -o"

# Histories and images, from a kage that has some.
cat >"$tmp/bin/log" <<'END'
IMAGE    AGE  WHAT
shop@1   2 d  shop
shop@12  1 d  shop
END
kage() { if [[ " $* " == *" log "* ]]; then cat "$tmp/bin/log"; else command kage "$@"; fi; }
is "$(complete_line 'kage log s')" "shop" "a history"
is "$(COMP_WORDBREAKS=' ' complete_line 'kage show shop@')" \
	"shop@1 shop@12 shop@first shop@latest" "images"
is "$(COMP_WORDBREAKS=' @' complete_line 'kage show shop@1')" "1 12" \
	"images where readline breaks words at @"
unset -f kage
is "$(cat "$tmp/complaints" 2>/dev/null)" "" "no complaints"
finish
