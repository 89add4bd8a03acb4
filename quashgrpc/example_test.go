package quashgrpc_test

import (
	"context"
	"log"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/quashgrpc"
)

// A server whose calls all need a live token. Its streams may go on for a minute
// where the verifier is cut off for longer than its lease; its other calls
// refuse.
func Example() {
	ctx := context.Background()
	v, err := quash.Open(ctx, quash.Config{URL: "https://quash.internal:8081", Key: os.Getenv("QUASH_KEY"), Audience: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	defer v.Close(ctx) // after the server has drained
	srv := grpc.NewServer(
		grpc.ChainUnaryInterceptor(quashgrpc.Unary(v)),
		grpc.ChainStreamInterceptor(quashgrpc.Stream(v, quash.AcceptStale(time.Minute))),
	)
	grpc_health_v1.RegisterHealthServer(srv, health.NewServer()) // your own services
	lis, err := net.Listen("tcp", "127.0.0.1:8083")
	if err != nil {
		log.Fatal(err)
	}
	if err := srv.Serve(lis); err != nil {
		log.Print(err)
	}
}
