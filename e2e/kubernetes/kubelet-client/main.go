// kubelet-client asks a kubelet for what the API server would ask it for, by the same libraries.
//
//	kubelet-client -kubelet URL [-websocket] get PATH
//	                                         exec POD CONTAINER COMMAND...
//	                                         attach POD CONTAINER
//	                                         forward POD PORT
//
// POD is in the namespace "default". exec and attach connect stdin, stdout and stderr, and exec ends
// with the code of the command; forward writes stdin to the port, and prints what comes from it until
// the port closes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

func main() {
	log.SetFlags(0)
	host := flag.String("kubelet", "", "the `URL` of the kubelet")
	websocket := flag.Bool("websocket", false, "streams over WebSocket, not SPDY")
	flag.Parse()
	if flag.NArg() < 2 {
		log.Fatal("a command and its arguments are needed")
	}
	kubelet := client{websocket: *websocket, config: &rest.Config{
		Host:            *host,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}}
	err := kubelet.run(flag.Arg(0), flag.Args()[1:])
	var exit exec.CodeExitError
	if errors.As(err, &exit) {
		os.Exit(exit.Code)
	}
	if err != nil {
		log.Fatal(err)
	}
}

type client struct {
	config    *rest.Config
	websocket bool
}

func (c *client) run(command string, arguments []string) error {
	switch {
	case command == "get":
		return c.get(arguments[0])
	case command == "exec" && len(arguments) > 2:
		parameters := streams()
		parameters["command"] = arguments[2:]
		return c.stream("/exec/default/"+arguments[0]+"/"+arguments[1], parameters)
	case command == "attach" && len(arguments) == 2:
		return c.stream("/attach/default/"+arguments[0]+"/"+arguments[1], streams())
	case command == "forward" && len(arguments) == 2:
		return c.forward(arguments[0], arguments[1])
	}
	return fmt.Errorf("%s does not go with %q", command, arguments)
}

// The parameters that a kubelet knows the standard streams by.
func streams() url.Values {
	return url.Values{"input": {"1"}, "output": {"1"}, "error": {"1"}}
}

func (c *client) get(path string) error {
	http, err := rest.HTTPClientFor(c.config)
	if err != nil {
		return err
	}
	answer, err := http.Get(c.config.Host + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != 200 {
		text, _ := io.ReadAll(answer.Body)
		return fmt.Errorf("%s: %s: %s", path, answer.Status, text)
	}
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

func (c *client) url(path string, parameters url.Values) (*url.URL, error) {
	url, err := url.Parse(c.config.Host + path)
	if err == nil {
		url.RawQuery = parameters.Encode()
	}
	return url, err
}

func (c *client) stream(path string, parameters url.Values) error {
	url, err := c.url(path, parameters)
	if err != nil {
		return err
	}
	var executor remotecommand.Executor
	if c.websocket {
		executor, err = remotecommand.NewWebSocketExecutor(c.config, "GET", url.String())
	} else {
		executor, err = remotecommand.NewSPDYExecutor(c.config, "POST", url)
	}
	if err != nil {
		return err
	}
	return executor.StreamWithContext(context.Background(), remotecommand.StreamOptions{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	})
}

func (c *client) forward(pod, port string) error {
	url, err := c.url("/portForward/default/"+pod, nil)
	if err != nil {
		return err
	}
	connection, err := c.dial(url)
	if err != nil {
		return err
	}
	defer connection.Close()
	headers := http.Header{}
	headers.Set(v1.StreamType, v1.StreamTypeError)
	headers.Set(v1.PortHeader, port)
	headers.Set(v1.PortForwardRequestIDHeader, "0")
	failure, err := connection.CreateStream(headers)
	if err != nil {
		return err
	}
	failure.Close()
	headers.Set(v1.StreamType, v1.StreamTypeData)
	data, err := connection.CreateStream(headers)
	if err != nil {
		return err
	}
	if _, err := io.Copy(data, os.Stdin); err != nil {
		return err
	}
	data.Close()
	if _, err := io.Copy(os.Stdout, data); err != nil {
		return err
	}
	if text, err := io.ReadAll(failure); err != nil || len(text) > 0 {
		return fmt.Errorf("port %s: %s %v", port, text, err)
	}
	return nil
}

func (c *client) dial(url *url.URL) (httpstream.Connection, error) {
	if c.websocket {
		dialer, err := portforward.NewSPDYOverWebsocketDialer(url, c.config)
		if err != nil {
			return nil, err
		}
		connection, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		return connection, err
	}
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return nil, err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", url)
	connection, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	return connection, err
}
