package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/internal/pb/controlv1"
)

func TestBytesText(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 256 << 20: "256.0 MiB", 1 << 40: "1.0 TiB", 1<<64 - 1: "16.0 EiB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]int64{
		"1": 1, "4096": 4096, "4096B": 4096, "64KiB": 64 << 10, "64 KiB": 64 << 10, "1.5MiB": 3 << 19, "256MiB": 256 << 20, "1GiB": 1 << 30,
		"2kB": 2000, "1.5MB": 1500000, "3GB": 3000000000,
	} {
		if got, err := parseBytes(s); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0", "-1", "1.5", "x", "MiB", "1e30", "NaN", "Inf", "1TB", "0.1B", "9223372036854775808"} {
		if got, err := parseBytes(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}

func FuzzParseBytes(f *testing.F) {
	f.Add("256MiB")
	f.Add("1e3")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseBytes(s); err == nil && n < 1 {
			t.Errorf("%q: %d", s, n)
		}
	})
}

func TestAgeText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01s", 2*time.Hour + 5*time.Minute: "2h05m", 50 * time.Hour: "2d02h",
	} {
		if got := ageText(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

func TestTableHasOneHeader(t *testing.T) {
	var b bytes.Buffer
	mounts := []*controlv1.Mount{
		{Kind: controlv1.Mount_KIND_EXPOSE, Name: "web", Local: "127.0.0.1:3000", AllowAny: true},
		{Kind: controlv1.Mount_KIND_EXPOSE, Name: "db", Local: "unix:/run/db", Allow: []string{"A", "B", "C"}},
		{Kind: controlv1.Mount_KIND_EXPOSE, Name: "none", Local: "127.0.0.1:1"},
		{Kind: controlv1.Mount_KIND_CONNECT, Name: "\x1b[2Jevil", Local: "127.0.0.1:2", TargetAddress: "/p2p/D", LastError: "two\nlines\x07"},
	}
	if err := printMounts(&b, mounts); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 5 || strings.Count(b.String(), "KIND") != 1 {
		t.Fatalf("%q", b.String())
	}
	column := strings.Index(lines[0], "LOCAL")
	for i, piece := range []string{"any", "A and 2 more", "nobody", "D"} {
		if line := lines[i+1]; !strings.Contains(line, " "+piece+" ") || line[column-1] != ' ' || line[column] == ' ' {
			t.Errorf("no %q, or not aligned: %q", piece, line)
		}
	}
	if strings.ContainsAny(b.String(), "\x1b\x07") || !strings.Contains(b.String(), "?[2Jevil") || !strings.Contains(b.String(), "two lines?") {
		t.Errorf("control characters: %q", b.String())
	}
}

func TestMatching(t *testing.T) {
	mounts := []*controlv1.Mount{
		{Id: 1, Name: "web", Local: "127.0.0.1:3000"},
		{Id: 2, Name: "web", Local: "127.0.0.1:3001", ListenAddress: "/ip4/127.0.0.1/tcp/3001"},
		{Id: 3, Name: "3001", Local: "127.0.0.1:4000"},
		{Id: 4, Name: "sock", Local: "unix:/tmp/a:3000"},
	}
	for word, want := range map[string][]uint64{
		"web": {1, 2}, "3000": {1}, "3001": {3}, "127.0.0.1:3001": {2}, "/ip4/127.0.0.1/tcp/3001": {2}, "unix:/tmp/a:3000": {4}, "300": nil, "nosuch": nil,
	} {
		if got := matching(mounts, word); len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
			t.Errorf("%q: %v, want %v", word, got, want)
		}
	}
}

func TestAbsolute(t *testing.T) {
	t.Chdir("/tmp")
	for addr, want := range map[string]string{
		"3000": "3000", "unix:/a": "unix:/a", "unix:a/b": "unix:/tmp/a/b", "unix:./x": "unix:/tmp/x", "unix:": "unix:", "unix:///a": "unix:///a", "/unix/a": "/unix/a",
	} {
		if got, err := absolute(addr); err != nil || got != want {
			t.Errorf("%q: %q, %v", addr, got, err)
		}
	}
}

func TestOneLine(t *testing.T) {
	if got := oneLine("a\n\tb  c\x1b[31m\u202e"); got != "a b c?[31m?" {
		t.Errorf("%q", got)
	}
}
