// Command kith runs a peer-to-peer node and controls it: it exposes local
// services to chosen peers and binds the services of other peers to local
// ports.
//
//	kith up                               run the node of this user
//	kith expose 3000 --allow PEER         on the machine with the service
//	kith connect PEER/3000 3000           on the machine that uses it
//
// `kith try` shows all of it on one machine with nothing prepared. Every
// command but up, try, completion and version talks to the running node over
// the control socket in its home (~/.kith, $KITH_HOME or --home).
//
// Results go to standard output, everything else to standard error. An error is
// one line: what happened, why, and what to do next. Exit codes: 0 done, 1
// failed, 2 wrong usage.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP) // HUP: the terminal was closed
	// The first signal asks, a second one kills as usual.
	context.AfterFunc(ctx, stop)
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, errorPrefix: "kith: "}
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
