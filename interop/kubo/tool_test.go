package kubo

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// toolDir holds what this run of the tests builds, and links by which scripts
// call back into the test program (see tools). It is removed at the end.
var toolDir string

// tools are the small programs that kubo's script calls. The test program
// plays them itself when it is started under one of these names.
var tools = map[string]func(args []string) int{
	"ma-pipe-unidir": pipeTool,
	"go-sleep":       sleepTool,
	"netstat":        netstatTool,
}

func TestMain(m *testing.M) {
	if tool, ok := tools[filepath.Base(os.Args[0])]; ok {
		os.Exit(tool(os.Args[1:]))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	var err error
	if toolDir, err = os.MkdirTemp("", "kith-interop-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(toolDir)
	return m.Run()
}

// linkTools makes the tools callable by name and returns the directory to put
// on PATH. Elsewhere than on Linux the system's own netstat is used.
func linkTools(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name := range tools {
		if name == "netstat" && runtime.GOOS != "linux" {
			continue
		}
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// pipeTool carries bytes one way between standard input or output and one TCP
// connection, dialled or accepted. The file named by --pidFile exists from the
// moment the socket stands until the last byte is through; it is removed before
// the socket is closed, so that whoever sees the end of the stream also sees
// the file gone. A connection that breaks counts as an end, not as a failure,
// even one that was accepted and reset before the dialling end could look.
func pipeTool(args []string) int {
	flags := flag.NewFlagSet("ma-pipe-unidir", flag.ContinueOnError)
	listen := flags.Bool("listen", false, "accept one connection instead of dialling")
	pidFile := flags.String("pidFile", "", "file to hold the process id")
	if flags.Parse(args) != nil || flags.NArg() != 2 {
		return 2
	}
	hostPort, err := splitTCP(flags.Arg(1))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	mark := func() error {
		if *pidFile == "" {
			return nil
		}
		return os.WriteFile(*pidFile, []byte(strconv.Itoa(os.Getpid())), 0o644)
	}
	var conn net.Conn
	if *listen {
		var l net.Listener
		if l, err = net.Listen("tcp", hostPort); err == nil {
			if err = mark(); err == nil {
				conn, err = l.Accept()
			}
			l.Close()
		}
	} else if conn, err = net.Dial("tcp", hostPort); err == nil {
		err = mark()
	} else if errors.Is(err, syscall.ECONNRESET) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer conn.Close()
	if *pidFile != "" {
		defer os.Remove(*pidFile)
	}
	switch flags.Arg(0) {
	case "send":
		io.Copy(conn, os.Stdin)
	case "recv":
		io.Copy(os.Stdout, conn)
	default:
		return 2
	}
	return 0
}

// splitTCP turns /ip4/127.0.0.1/tcp/80 into 127.0.0.1:80.
func splitTCP(maddr string) (string, error) {
	part := strings.Split(maddr, "/")
	if len(part) != 5 || part[0] != "" || part[1] != "ip4" || part[3] != "tcp" {
		return "", fmt.Errorf("%q is not of the form /ip4/ADDRESS/tcp/PORT", maddr)
	}
	return net.JoinHostPort(part[2], part[4]), nil
}

// sleepTool waits as long as a Go duration says: the script's loops use it to
// pace themselves.
func sleepTool(args []string) int {
	if len(args) != 1 {
		return 2
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return 2
	}
	time.Sleep(d)
	return 0
}

// netstatTool prints the listening TCP sockets of a Linux machine in the
// columns of the program of that name; its flags are taken as read.
func netstatTool([]string) int {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(table)
		if err != nil {
			continue // no IPv6 on this machine
		}
		for _, local := range listening(data) {
			fmt.Printf("tcp 0 0 %s 0.0.0.0:* LISTEN \n", local)
		}
	}
	return 0
}

// listening reads a table of /proc/net: columns are slot, local address,
// remote address, state (0A is LISTEN); an address is hexadecimal, in words of
// four bytes with the lowest first.
func listening(table []byte) []string {
	var found []string
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		field := strings.Fields(lines.Text())
		if len(field) < 4 || field[3] != "0A" {
			continue
		}
		host, port, _ := strings.Cut(field[1], ":")
		raw, err := hex.DecodeString(host)
		number, err2 := strconv.ParseUint(port, 16, 16)
		if err != nil || err2 != nil || len(raw)%4 != 0 {
			continue
		}
		for i := 0; i < len(raw); i += 4 {
			binary.BigEndian.PutUint32(raw[i:], binary.LittleEndian.Uint32(raw[i:]))
		}
		found = append(found, net.JoinHostPort(net.IP(raw).String(), strconv.FormatUint(number, 10)))
	}
	return found
}

func TestListening(t *testing.T) {
	table := "  sl  local_address rem_address   st\n" +
		"   0: 0100007F:2775 00000000:0000 0A 00000000:00000000\n" +
		"   1: 0100007F:2776 0100007F:1F90 06 00000000:00000000\n" +
		"   2: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0\n"
	got := strings.Join(listening([]byte(table)), " ")
	if want := "127.0.0.1:10101 [::1]:80"; got != want {
		t.Errorf("listening sockets are %q, want %q", got, want)
	}
}
