// What Docker Compose makes of a file, as JSON: read by the package that Compose reads it with, so
// that a key it does not know, a variable without a value or a service that is not there is an error.
//
//	compose FILE
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/sirupsen/logrus"
)

// A warning, such as of a variable that is not set, is a mistake here.
type strict struct{}

func (strict) Levels() []logrus.Level { return []logrus.Level{logrus.WarnLevel} }

func (strict) Fire(entry *logrus.Entry) error {
	fmt.Fprintln(os.Stderr, entry.Message)
	os.Exit(1)
	return nil
}

func read(file string) ([]byte, error) {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithOsEnv, cli.WithName("checked"))
	if err != nil {
		return nil, err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return nil, err
	}
	return project.MarshalJSON()
}

func main() {
	logrus.AddHook(strict{})
	made, err := read(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(made))
}
