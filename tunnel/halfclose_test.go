package tunnel

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// A megabyte of answer after the end of the question, from the server and from
// the client, over every pairing of TCP and unix sockets.
func TestHalfCloseOverEveryPairOfSockets(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	question, answer := make([]byte, 100_000), make([]byte, 1<<20)
	rand.Read(question)
	rand.Read(answer)
	type halfCloser interface {
		net.Conn
		CloseWrite() error
	}
	type outcome struct {
		got []byte
		err error
	}
	ask := func(c halfCloser) outcome {
		if _, err := c.Write(question); err != nil {
			return outcome{nil, err}
		}
		if err := c.CloseWrite(); err != nil {
			return outcome{nil, err}
		}
		got, err := io.ReadAll(c)
		return outcome{got, err}
	}
	reply := func(c halfCloser) outcome {
		got, err := io.ReadAll(c)
		if err == nil {
			_, err = c.Write(answer)
		}
		if err == nil {
			err = c.CloseWrite()
		}
		return outcome{got, err}
	}
	for _, target := range []string{"tcp", "unix"} {
		for _, bind := range []string{"tcp", "unix"} {
			for _, who := range []string{"server", "client"} {
				t.Run(bind+" to "+target+"/the "+who+" answers", func(t *testing.T) {
					dir := t.TempDir()
					at := "127.0.0.1:0"
					if target == "unix" {
						at = filepath.Join(dir, "t")
					}
					l, err := net.Listen(target, at)
					if err != nil {
						t.Fatal(err)
					}
					server, client := reply, ask
					if who == "client" {
						server, client = ask, reply
					}
					served := make(chan outcome, 1)
					name := bind + "-" + target + "-" + who
					expose(t, a, name, serveOn(t, l, func(c net.Conn) {
						c.SetDeadline(time.Now().Add(30 * time.Second))
						served <- server(c.(halfCloser))
					}), AllowPeers(b.id))
					local := ma.StringCast("/ip4/127.0.0.1/tcp/0")
					if bind == "unix" {
						local = ma.StringCast("/unix" + filepath.Join(dir, "b"))
					}
					info, err := b.Dial(t.Context(), a.addr(), a.id, name, local)
					if err != nil {
						t.Fatal(err)
					}
					network, addr, err := manet.DialArgs(info.Address)
					if err != nil {
						t.Fatal(err)
					}
					c, err := net.Dial(network, addr)
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					c.SetDeadline(time.Now().Add(30 * time.Second))
					mine, theirs := client(c.(halfCloser)), <-served
					asker, answerer := mine, theirs
					if who == "client" {
						asker, answerer = theirs, mine
					}
					if answerer.err != nil || !bytes.Equal(answerer.got, question) {
						t.Errorf("%d bytes of %d were asked, %v", len(answerer.got), len(question), answerer.err)
					}
					if asker.err != nil || !bytes.Equal(asker.got, answer) {
						t.Errorf("%d bytes of %d were answered, %v", len(asker.got), len(answer), asker.err)
					}
				})
			}
		}
	}
}
