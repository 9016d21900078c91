// Package daemon runs a kith node as a long-running service and lets other
// programs of the same user control it.
//
// [Run] opens the node of a home directory, serves the control API on the unix
// socket control.sock in that directory, and ends within two seconds when its
// context does. [Dial] is the other end: the client behind the command line.
//
//	err := daemon.Run(ctx, daemon.Options{Home: home, Log: os.Stderr})
//
//	client, err := daemon.Dial(home)
//	status, err := client.Status(ctx)
//
// The API is one Protobuf service (kith.control.v1.ControlService) served with
// Connect, gRPC, gRPC-Web and plain JSON over HTTP/1.1 and unencrypted HTTP/2,
// with gRPC server reflection, so that this package's client, any gRPC client
// and curl speak it alike:
//
//	curl --unix-socket ~/.kith/control.sock -H 'content-type: application/json' \
//	     -d '{}' http://kith/kith.control.v1.ControlService/Status
//
// Whoever can open the socket controls the node: its mode is 0600 from the
// moment it exists, the home's is 0700, and requests with an Origin header (a
// browser's) are refused.
//
// The home also holds config.toml; see [LoadConfig], [ConfigTemplate] and
// [ConfigTable].
package daemon
