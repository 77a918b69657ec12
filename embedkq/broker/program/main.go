// The development broker: kfake of franz-go, a Kafka broker that is meant for tests, as a program of its own.
//
// It prints HOST:PORT once it takes connections. What keeps it from starting is one line on stderr, with status 1.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

const (
	partitions        = 4 // of a topic that is made on first use
	ownerInterval     = 500 * time.Millisecond
	retentionInterval = 10 * time.Second // Kafka: 5 minutes
)

func main() {
	host := flag.String("host", "127.0.0.1", "address to listen on")
	advertise := flag.String("advertise", "", "host that clients are told; that of -host if empty")
	port := flag.Int("port", 0, "TCP port; 0 for a free one")
	data := flag.String("data", "", "folder for topics and offsets; in memory only if empty")
	owner := flag.Int("owner", 0, "process id of the parent, with which this process ends; 0 for none")
	flag.Parse()
	if *advertise == "" {
		*advertise = *host
	}
	if err := run(*host, *advertise, *port, *data, *owner); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(host, advertise string, port int, data string, owner int) error {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGINT, syscall.SIGTERM)
	listener, err := listen(host, advertise, port)
	if err != nil {
		return err
	}
	options := commonOptions()
	if data != "" {
		if err := takeFolder(data); err != nil {
			return err
		}
		options = append(options, kfake.DataDir(data))
		if err := mend(options); err != nil {
			return folderError(data, err)
		}
	}
	cluster, err := kfake.NewCluster(append(options, kfake.ListenFn(func(string, string) (net.Listener, error) { return listener, nil }))...)
	if err != nil {
		return folderError(data, err)
	}
	answerAsKafka(cluster)
	fmt.Println(listener.Addr())
	serve(cluster, data, owner, asked)
	cluster.Close()
	return nil
}

// commonOptions are those of Apache Kafka's own defaults, where kfake has others.
func commonOptions() []kfake.Opt {
	versions := kversion.Stable()
	// From version 5 on the answer tells the topic's configs; kfake leaves out where each comes from, and kafka-python raises.
	versions.SetMaxKeyVersion(int16(kmsg.CreateTopics), 4)
	return []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.MaxVersions(versions),
		kfake.ClusterID(newClusterID()),
		kfake.DefaultNumPartitions(partitions),
		kfake.GroupMinSessionTimeout(time.Second), // Kafka: 6 s; a test of a dead worker need not take that long
		kfake.GroupMaxSessionTimeout(30 * time.Minute),
		kfake.WithLogger(kfake.BasicLogger(os.Stderr, kfake.LogLevelWarn)),
	}
}

// serve returns when a signal asks for the end, or the owner is gone.
func serve(cluster *kfake.Cluster, data string, owner int, asked <-chan os.Signal) {
	retention := time.NewTicker(retentionInterval)
	defer retention.Stop()
	var look <-chan time.Time
	if owner > 0 { // Linux's kernel watches over the owner (die_with_parent.py); other systems have nothing like it
		watch := time.NewTicker(ownerInterval)
		defer watch.Stop()
		look = watch.C
	}
	for {
		select {
		case <-asked:
			if data != "" {
				keepEnds(cluster, data)
			}
			return
		case <-look:
			if os.Getppid() != owner {
				return
			}
		case <-retention.C:
			cluster.ApplyRetention()
			if data != "" {
				keepEnds(cluster, data)
			}
		}
	}
}

// advertised is a listener that tells clients another host than the one it listens on.
type advertised struct {
	net.Listener
	address address
}

func (l advertised) Addr() net.Addr { return l.address }

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

func listen(host, advertise string, port int) (net.Listener, error) {
	where := net.JoinHostPort(host, strconv.Itoa(port))
	listener, err := net.Listen("tcp", where)
	var unknown *net.DNSError
	switch {
	case err == nil:
		_, chosen, err := net.SplitHostPort(listener.Addr().String())
		return advertised{listener, address(net.JoinHostPort(advertise, chosen))}, err
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("cannot listen at %s: the port is taken; choose another one, or 0 for any", where)
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.As(err, &unknown):
		return nil, fmt.Errorf("cannot listen at %s: %s is no address of this machine; 127.0.0.1 is, and 0.0.0.0 stands for all of them", where, host)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("cannot listen at %s: this user may not use that port; choose one above 1023", where)
	}
	return nil, fmt.Errorf("cannot listen at %s: %w", where, err)
}
