/* args_help.c - the --help text, laid out for the terminal's width. */
#include "shared/base/args.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { WIDTH_DEFAULT = 80, WIDTH_MIN = 60, WIDTH_MAX = 100, LABEL_COLUMNS_MAX = 30, LABEL_BYTES_MAX = 160 };

static int terminal_columns(void)
{
	struct winsize window;

	if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_col == 0)
		return WIDTH_DEFAULT;
	if (window.ws_col < WIDTH_MIN)
		return WIDTH_MIN;
	return window.ws_col > WIDTH_MAX ? WIDTH_MAX : window.ws_col;
}

static int columns_of(const char *text, size_t bytes)
{
	int columns = 0;

	for (size_t i = 0; i < bytes; i++)
		columns += ((unsigned char)text[i] & 0xC0) != 0x80;
	return columns;
}

/* Words flowed from column `at` (where the cursor is) to width, further lines indented. */
static void print_flowed(const char *text, size_t bytes, int at, int indent, int width)
{
	size_t i = 0;
	bool fresh = true;

	while (i < bytes) {
		size_t word = i;

		while (word < bytes && text[word] != ' ' && text[word] != '\n')
			word++;
		int columns = columns_of(text + i, word - i);
		if (!fresh && at + 1 + columns > width) {
			printf("\n%*s", indent, "");
			at = indent;
			fresh = true;
		}
		printf("%s%.*s", fresh ? "" : " ", (int)(word - i), text + i);
		at += columns + !fresh;
		fresh = false;
		for (i = word; i < bytes && (text[i] == ' ' || text[i] == '\n'); i++)
			;
	}
	putchar('\n');
}

/* A paragraph ends at an empty line or in front of an example; with `lines` each line is one. */
static size_t paragraph(const char *text, bool lines)
{
	size_t bytes = strcspn(text, "\n");

	while (!lines && bytes > 0 && text[0] != ' ' && text[bytes] == '\n' && strchr("\n ", text[bytes + 1]) == NULL)
		bytes += 1 + strcspn(text + bytes + 1, "\n");
	return bytes;
}

/* Lines that open with a blank are examples and stay as they are. */
static void print_text(const char *text, bool lines, int at, int indent, int width)
{
	for (;;) {
		size_t bytes = paragraph(text, lines);

		if (text[0] == ' ')
			printf("%.*s\n", (int)bytes, text);
		else
			print_flowed(text, bytes, at, indent, width);
		if (text[bytes] == '\0')
			return;
		text += bytes + 1;
		if (text[0] == '\0')
			return;
		if (text[0] != '\n' && text[0] != ' ')
			printf("%*s", indent, "");
		at = indent;
	}
}

/* "  -s, --socket PATH" */
static int make_label(char label[LABEL_BYTES_MAX], const struct args_option *option)
{
	char letter[] = "    ";

	if (option->letter != 0)
		memcpy(letter, (char[]){ '-', option->letter, ',', ' ' }, 4);
	snprintf(label, LABEL_BYTES_MAX, "  %s--%s%s%s", letter, option->name, option->metavar == NULL ? "" : " ",
		 option->metavar == NULL ? "" : option->metavar);
	return columns_of(label, strlen(label));
}

static void print_option(const struct args_option *option, int help_column, int width)
{
	char label[LABEL_BYTES_MAX];
	int columns = make_label(label, option);

	if (columns + 2 > help_column)
		printf("%s\n%*s", label, help_column, "");
	else
		printf("%s%*s", label, help_column - columns, "");
	print_text(option->help == NULL ? "" : option->help, true, help_column, help_column, width);
}

void args_print_help(const struct args_spec *spec)
{
	static const struct args_option help = { .name = "help", .letter = 'h', .kind = ARGS_FLAG, .help = "Print this text." };
	char label[LABEL_BYTES_MAX];
	int width = terminal_columns(), help_column = make_label(label, &help) + 2;
	bool heading = spec->option_count > 0 && spec->options[0].kind == ARGS_SECTION;

	for (int i = 0; i < spec->option_count; i++) {
		int columns = spec->options[i].kind == ARGS_SECTION ? 0 : make_label(label, &spec->options[i]) + 2;

		if (columns > help_column && columns <= LABEL_COLUMNS_MAX + 2)
			help_column = columns;
	}
	printf("Usage: ");
	print_text(spec->usage, true, 7, 7, width);
	if (spec->description != NULL) {
		putchar('\n');
		print_text(spec->description, false, 0, 0, width);
	}
	if (!heading)
		printf("\nOptions:\n");
	for (int i = 0; i < spec->option_count; i++) {
		const struct args_option *option = &spec->options[i];

		if (option->kind == ARGS_SECTION) {
			putchar('\n');
			print_text(option->help, false, 0, 0, width);
		} else {
			print_option(option, help_column, width);
		}
	}
	if (heading)
		putchar('\n');
	print_option(&help, help_column, width);
	fflush(stdout);
}
