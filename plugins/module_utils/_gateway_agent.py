# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The far side of a session through a terminal: a shell script that takes orders in short lines and answers in marked ones.

It assumes POSIX sh, base64, stty, dd, and sha256sum or cksum; mktemp, setsid and a head that takes no more than it is told are used where they are:
a shell reads its input byte by byte. Orders, and what is answered:

  W SLOT OFFSET BYTES, base64 lines, Z SIZE SUM
                                              a chunk for a slot, its lines being so many bytes: A SLOT HAVE, or N SLOT HAVE when it did not arrive
                                              whole or in its turn
  X SEQ C I B                                 run slot c with slot i as its input, when the slots have these sizes: B SEQ, H SEQ while it runs,
                                              then X SEQ and twice STATUS OUT ERR, and the first chunk of each; V when something does not fit
  G SLOT OFFSET LENGTH                        a chunk of o, e or the open file: D SLOT OFFSET LENGTH, base64 lines, E SLOT OFFSET SIZE SUM
  O A [new]                                   open the file that slot a names: O and twice SIZE SUM, - when it cannot be read; new: not what is there
  T A SIZE SUM                                what was put into the open file becomes the one that slot a names: T STATUS STATUS WORDS
  R NONCE                                     where we are: R NONCE and twice SEQ C I B A F STATUS OUT ERR; ends a chunk that lost its last line
  Q                                           end

The SUM of a chunk is that of a line with slot, offset and size, and its content. What is said twice is no checksum, and costs no process.
A session runs an order once: SEQ counts, and nothing is run unless it is the next one. Its slots are empty whenever it waits for an order.
"""

from __future__ import annotations

# The first chunk of a command's output is sent without being asked for.
FIRST_BYTES = 24576
BEAT_SECONDS = 5
SLOTS = ("c", "i", "b", "a", "f")

AGENT = r"""
exec 2>/dev/null
set -f
cd || cd /
U=$(umask)
umask 077
d=$(mktemp -d "${TMPDIR:-/tmp}/.gw.XXXXXXXX") || d=$(mktemp -d /tmp/.gw.XXXXXXXX) || { d=/tmp/.gw.$$; mkdir "$d" || exit 9; }
umask $U
S=
command -v setsid >/dev/null && S=setsid
K=cksum
command -v sha256sum >/dev/null && K=sha256sum
B=
[ "$(printf abcdef | { head -c 3 >/dev/null; cat; })" = def ] && B=1
p= F=/dev/null e=0 v="0 0 0" n_c=0 n_i=0 n_b=0 n_a=0 n_f=0
bye() {
  [ -n "$p" ] && { kill -HUP -- "-$p" || kill -HUP "$p"; }
  rm -rf "$d"
}
trap 'exit 0' HUP TERM
trap bye EXIT
say() { printf '%s %s\n' "$M" "$*"; }
dig() { set -- $($K); printf %s "$1.$2"; }
size() { set -- $(wc -c); printf %s "$1"; }
beat() {
  (while sleep 5; do say H $e || exit; done) &
  h=$!
}
hush() { kill -KILL $h; wait $h; }
place() {
  case $1 in
    f) t=$F ;;
    *) t=$d/$1 ;;
  esac
}
W() {
  : >"$d/w"
  case ${B:-x}$3 in
    *[!0-9]* | ???????* | ?) ;;
    1*) head -c $3 >"$d/w" ;;
  esac
  while IFS= read -r x; do
    case $x in
      "Z "* | "R "*) break ;;
    esac
    printf '%s\n' "$x"
  done >>"$d/w"
  case $x in
    "Z "*) ;;
    *) l=$x && return 1 ;;
  esac
  w=$1 o=$2
  set -- ${x#Z }
  case $w in
    c | i | b | a | f) ;;
    *) say N - 0 && return 0 ;;
  esac
  place $w
  eval "n=\$n_$w"
  base64 -d <"$d/w" >"$d/r"
  if [ "$({ printf '%s\n' "$w $o $1"; cat "$d/r"; } | dig)" != "$2" ]; then say N $w $n; return 0; fi
  if [ "$o" = 0 ]; then cat <"$d/r" >"$t" && n=$1 || n=!
  elif [ "$o" = "$n" ]; then cat <"$d/r" >>"$t" && n=$((n + $1)) || n=!
  else say N $w $n; return 0
  fi
  if [ "$n" = ! ]; then
    eval "n_$w=0"
    say F cannot write: is a disk full, or the place read-only?
    return 0
  fi
  eval "n_$w=$n"
  say A $w $n
}
G() {
  place $1
  case $2$3 in
    *[!0-9]* | "") return ;;
  esac
  [ "${3:-0}" -gt 0 ] || return
  dd if="$t" bs=$3 skip=$(($2 / $3)) count=1 >"$d/g"
  say D $1 $2 $3
  base64 <"$d/g"
  say E $1 $2 $(size <"$d/g") $(dig <"$d/g")
}
feed() {
  n=0
  while [ $n -lt 300 ]; do
    if grep -qF -e "$bp" "$d/e" "$d/o"; then printf '%s\n' "$bw"; break; fi
    grep -qF -e "$bs" "$d/o" && break
    sleep 0.1 || sleep 1
    n=$((n + 1))
  done
  cat "$d/i"
}
X() {
  if [ "$1" != $((e + 1)) ] || [ "$2 $3 $4" != "$n_c $n_i $n_b" ]; then say V $e; return; fi
  e=$1 n_c=0 n_i=0 n_b=0
  say B $e
  rm -f "$d/o" "$d/e"
  : >"$d/o"
  : >"$d/e"
  [ "$3" = 0 ] && : >"$d/i"
  beat
  if [ "$4" = 0 ]; then $S "${SHELL:-/bin/sh}" "$d/c" <"$d/i" >"$d/o" 2>"$d/e" &
  else
    { IFS= read -r bp; IFS= read -r bs; IFS= read -r bw; } <"$d/b"
    rm -f "$d/b"
    feed | $S "${SHELL:-/bin/sh}" "$d/c" >"$d/o" 2>"$d/e" &
  fi
  p=$!
  wait $p
  r=$?
  p= bw=
  hush
  rm -f "$d/c" "$d/i"
  v="$r $(size <"$d/o") $(size <"$d/e")"
  say X $e $v $v
  set -- $v
  [ "$2" = 0 ] || G o 0 FIRST
  [ "$3" = 0 ] || G e 0 FIRST
}
path() {
  F_=$(cat "$d/a"; printf x)
  F_=${F_%x}
  n_a=0
}
O() {
  [ "$1" = "$n_a" ] || { say V $e; return; }
  path
  F=$F_ n_f=0
  [ "$2" = new ] && { say O 0 - 0 -; return; }
  beat
  if [ -f "$F" ] && [ -r "$F" ]; then
    n_f=$(size <"$F")
    s=$(dig <"$F")
    hush
    say O $n_f "$s" $n_f "$s"
  else
    hush
    say O - - - -
  fi
}
T() {
  [ "$1 $2" = "$n_a $n_f" ] || { say V $e; return; }
  beat
  s=$(dig <"$F")
  hush
  [ "$s" = "$3" ] || { say V $e; return; }
  path
  beat
  if [ -d "$F_" ]; then m="it is a folder" r=1
  elif [ -e "$F_" ]; then m=$(cat <"$F" 2>&1 >"$F_") && rm -f "$F"; r=$?
  else m=$(mv -f -- "$F" "$F_" 2>&1); r=$?
  fi
  hush
  F=/dev/null n_f=0
  say T $r $r "$(printf %s "$m" | tr -cd '[:print:]')"
}
say K $K
while :; do
  IFS= read -r l || exit 0
  while :; do
    case $l in
      "W "*) set -- $l && W "$2" "$3" "$4" || continue ;;
      "X "*) set -- $l && X "$2" "$3" "$4" "$5" ;;
      "G "*) set -- $l && G "$2" "$3" "$4" ;;
      "O "*) set -- $l && O "$2" "$3" ;;
      "T "*) set -- $l && T "$2" "$3" "$4" ;;
      "R "*) u="$e $n_c $n_i $n_b $n_a $n_f $v" && say R "${l#R }" $u $u ;;
      "Z "*) say N - 0 ;;
      Q) exit 0 ;;
    esac
    break
  done
done
""".replace("FIRST", str(FIRST_BYTES)).replace("sleep 5", f"sleep {BEAT_SECONDS}").lstrip()

# What the login shell is given, in one line of its own: raw terminal, no echo, and a plain sh that takes the agent's lines and checks them.
# The marker is put together there, so that an echo of this line is never taken for an answer.
LOADER = (
    " stty raw -echo;exec sh -c 'M={front};M=${{M}}{back};n=$(printf \"\\nx\");n=${{n%x}};while :;do printf \"\\n$M L\\n\";s=;"
    'while IFS= read -r l;do [ "$l" = . ]&&break;s=$s$l$n;done;set -- $(printf %s "$s"|cksum);[ $1 = {sum} ]&&eval "$s";done\'\n'
)


def posix_cksum(data: bytes) -> int:
    """The CRC of POSIX's cksum."""
    crc = 0
    length = len(data)
    tail = bytearray()
    while length:
        tail.append(length & 0xFF)
        length >>= 8
    for byte in data + bytes(tail):
        crc = ((crc << 8) & 0xFFFFFFFF) ^ _TABLE[(crc >> 24) ^ byte]
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    rows = []
    for number in range(256):
        crc = number << 24
        for _bit in range(8):
            crc = ((crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
        rows.append(crc)
    return rows


_TABLE = _table()


def loader(marker: str) -> bytes:
    half = len(marker) // 2
    return LOADER.format(front=marker[:half], back=marker[half:], sum=posix_cksum(AGENT.encode())).encode()
