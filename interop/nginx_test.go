package interop

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
)

// nginxConfig serves the files of a directory on a unix socket, which takes
// plain HTTP, and on a TCP port, where each connection has to begin with a
// PROXY protocol header. The log tells what nginx saw.
var nginxConfig = template.Must(template.New("").Parse(`
daemon off;
user root;
worker_processes 1;
pid {{.Dir}}/nginx.pid;
error_log {{.Dir}}/error.log info;
events { worker_connections 256; }
http {
	log_format seen '$http_x_kith_peer|$proxy_protocol_addr|$proxy_protocol_port|$request_method $uri|$status';
	access_log {{.Dir}}/access.log seen;
	client_body_temp_path {{.Dir}}/body;
	proxy_temp_path {{.Dir}}/proxy;
	fastcgi_temp_path {{.Dir}}/fastcgi;
	uwsgi_temp_path {{.Dir}}/uwsgi;
	scgi_temp_path {{.Dir}}/scgi;
	gzip off;
	sendfile on;
	keepalive_timeout 60s;
	root {{.Dir}}/www;
	server {
		listen unix:{{.Dir}}/nginx.sock;
		add_header X-Seen "$http_x_kith_peer" always;
		add_header X-Host "$http_host" always;
	}
	server {
		listen 127.0.0.1:{{.Port}} proxy_protocol;
		add_header X-From "$proxy_protocol_addr" always;
	}
}
`))

// nginx is a web server that serves one large file and one small.
type nginx struct {
	*process
	Dir, Port string // Port wants the PROXY protocol
	large     []byte
}

func startNginx(t *testing.T) *nginx {
	t.Helper()
	n := &nginx{Dir: shortDir(t, "kith-ngx-"), Port: freePort(t), large: make([]byte, 10<<20)}
	rand.NewChaCha8([32]byte{'n', 'g', 'x'}).Read(n.large)
	var conf strings.Builder
	if err := errors.Join(
		nginxConfig.Execute(&conf, n),
		os.Mkdir(filepath.Join(n.Dir, "www"), 0o755),
		os.WriteFile(filepath.Join(n.Dir, "www", "large"), n.large, 0o644),
		os.WriteFile(filepath.Join(n.Dir, "www", "small"), []byte("small\n"), 0o644),
		os.WriteFile(filepath.Join(n.Dir, "nginx.conf"), []byte(conf.String()), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	n.run(t)
	return n
}

// run starts the server, for the first time or after a stop.
func (n *nginx) run(t *testing.T) {
	t.Helper()
	os.Remove(n.socket()) // an nginx that was killed leaves it behind
	cmd := exec.Command(program(t, "nginx"), "-p", n.Dir, "-c", filepath.Join(n.Dir, "nginx.conf"), "-e", filepath.Join(n.Dir, "error.log"))
	n.process = start(t, nil, "nginx", syscall.SIGTERM, cmd)
	n.wait(t, func() error {
		c, err := net.Dial("unix", n.socket())
		if err == nil {
			c.Close()
		}
		return err
	})
}

func (n *nginx) socket() string { return filepath.Join(n.Dir, "nginx.sock") }

// sees waits for a line of the access log with all the pieces.
func (n *nginx) sees(t *testing.T, pieces ...string) {
	t.Helper()
	eventually(t, "nginx's log", func() error {
		data, err := os.ReadFile(filepath.Join(n.Dir, "access.log"))
		if err != nil {
			return err
		}
	lines:
		for line := range strings.Lines(string(data)) {
			for _, piece := range pieces {
				if !strings.Contains(line, piece) {
					continue lines
				}
			}
			return nil
		}
		return fmt.Errorf("no line with all of %q in\n%s", pieces, data)
	})
}
