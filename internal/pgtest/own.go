package pgtest

import (
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// credential is whom the servers run as: PostgreSQL refuses to be root. Nil:
// the same as this process.
var credential = sync.OnceValue(func() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	return nil
})

// own gives a file to whom the servers run as.
func own(path string) error {
	if c := credential(); c != nil {
		return os.Chown(path, int(c.Uid), int(c.Gid))
	}
	return nil
}

func write(dir, name, text string) error {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return own(path)
}

// directory makes a directory for one server. It is a short path, as sockets
// need, and is swept when this process has ended.
func directory() (string, error) {
	dir, err := os.MkdirTemp("/tmp", "pgtest")
	if err != nil {
		return "", err
	}
	if err := own(dir); err != nil {
		return "", err
	}
	return dir, sweepAfter(dir)
}

// sweep waits for the end of its standard input. Then it ends what is named by
// the files *.running of each directory that it was told of, and removes them.
const sweep = `
while read -r dir; do dirs="$dirs $dir"; done
pids() { for f in $(ls -d $(for d in $dirs; do echo "$d/*.running"; done) 2>/dev/null); do basename "$f" .running; done; }
for p in $(pids); do kill -CONT "$p"; kill -QUIT "$p"; done
for n in $(seq 100); do
	alive=
	for p in $(pids); do kill -0 "$p" && alive=yes; done
	[ -z "$alive" ] && break
	sleep 0.1
done
for p in $(pids); do kill -KILL "$p"; done
rm -rf $dirs
`

// watchdog is a shell that outlives this process, whatever ends it, by what it
// takes to sweep.
var watchdog struct {
	sync.Mutex
	tell io.Writer
}

func sweepAfter(dir string) error {
	watchdog.Lock()
	defer watchdog.Unlock()
	if watchdog.tell == nil {
		cmd := exec.Command("/bin/sh", "-c", sweep)
		cmd.Dir = filepath.VolumeName(dir) + "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		tell, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		watchdog.tell = tell
	}
	_, err := io.WriteString(watchdog.tell, dir+"\n")
	return err
}
