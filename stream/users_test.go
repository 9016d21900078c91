package stream

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	corehost "github.com/libp2p/go-libp2p/core/host"
)

// net/http runs unmodified: keep-alive, peer of a request, clean Shutdown.
func TestHTTP(t *testing.T) {
	type peerKey struct{}
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		ln, err := Listen(b, newTag(), WithHostPortAddr())
		if err != nil {
			t.Fatal(err)
		}
		var conns atomic.Int32
		server := &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				if _, _, err := net.SplitHostPort(r.RemoteAddr); err != nil {
					t.Error(err)
				}
				fmt.Fprintf(w, "%s:%s", r.Context().Value(peerKey{}), body)
			}),
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				conns.Add(1)
				id, _ := PeerOf(c)
				return context.WithValue(ctx, peerKey{}, id.String())
			},
		}
		served := make(chan error, 1)
		go func() { served <- server.Serve(ln) }()
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return Dial(ctx, a, b.ID(), ln.(*listener).key.tag)
		}}
		client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
		for i := range 200 {
			resp, err := client.Post("http://peer/", "text/plain", bytes.NewReader(fmt.Append(nil, i)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if want := fmt.Sprintf("%s:%d", a.ID(), i); string(got) != want || err != nil {
				t.Fatalf("%q, %v, want %q", got, err, want)
			}
		}
		if n := conns.Load(); n != 1 {
			t.Errorf("%d connections for 200 requests", n)
		}
		within(t, 10*time.Second, "Shutdown", func() {
			if err := server.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if err := <-served; !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		})
		transport.CloseIdleConnections()
	})
}

// crypto/tls runs unmodified, its half close too.
func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"peer"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	ours := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		c, far := pipe(t, a, b)
		client := tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "peer"})
		server := tls.Server(far, ours)
		question, reply := make([]byte, 300<<10), make([]byte, 1<<20)
		go func() {
			got, err := io.ReadAll(server)
			if err != nil || len(got) != len(question) {
				t.Errorf("server read %d, %v", len(got), err)
			}
			if _, err := server.Write(reply); err != nil {
				t.Error(err)
			}
			server.Close()
		}()
		if _, err := client.Write(question); err != nil {
			t.Fatal(err)
		}
		if err := client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(client); err != nil || len(got) != len(reply) {
			t.Errorf("client read %d, %v", len(got), err)
		}
		if id, ok := PeerOf(client); !ok || id != b.ID() {
			t.Errorf("PeerOf through TLS: %v", id)
		}
		// A deadline does not spoil a TLS connection's reading side.
		client.Close()
	})
}
