#include "trainer/study/svg.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct svg_scale svg_scale(double low, double high)
{
	struct svg_scale out = { .low = 0, .high = 1 };

	if (!isfinite(low) || !isfinite(high) || low > high || fabs(low) > 1e100 || fabs(high) > 1e100)
		return out;
	double air = (high - low) * 0.06;
	if (!(air > 0))
		air = fabs(high) > 0 ? fabs(high) * 0.05 : 0.5;
	out.low = low - air;
	out.high = high + air;
	return out;
}

int svg_ticks(const struct svg_scale *scale, int wanted, double out[SVG_TICKS_MAX], int *digits)
{
	double factor = scale->percent ? 100 : 1, low = scale->low * factor, high = scale->high * factor;
	double raw = (high - low) / (wanted > 0 ? wanted : 1), power = pow(10, floor(log10(raw))), step = power;
	int count = 0;

	if (raw / power > 5)
		step = 10 * power;
	else if (raw / power > 2)
		step = 5 * power;
	else if (raw / power > 1)
		step = 2 * power;
	if (scale->whole && step < 1)
		step = 1;
	*digits = step >= 1 ? 0 : (int)ceil(-log10(step) - 1e-9);
	if (*digits > 6)
		*digits = 6;
	for (double i = ceil(low / step - 1e-9); i * step <= high + step * 1e-9 && count < SVG_TICKS_MAX; i++)
		out[count++] = i * step / factor;
	return count;
}

double svg_x(const struct svg_plot *p, double x)
{
	double share = (x - p->x.low) / (p->x.high - p->x.low);

	return p->left + share * (p->width - p->left - p->right);
}

double svg_y(const struct svg_plot *p, double y)
{
	double share = (y - p->y.low) / (p->y.high - p->y.low);

	return p->height - p->bottom - share * (p->height - p->top - p->bottom);
}

void svg_begin(const struct svg_plot *p, const char *title)
{
	text_f(p->t, "<svg viewBox=\"0 0 %g %g\" role=\"img\"><title>", p->width, p->height);
	text_html(p->t, title);
	text_add(p->t, "</title>");
}

void svg_end(const struct svg_plot *p)
{
	text_add(p->t, "</svg>\n");
}

static void tick_text(const struct svg_plot *p, const struct svg_scale *scale, double value, int digits)
{
	struct text_number n = scale->percent ? text_percent(value, digits) : text_fixed(value, digits);

	text_add(p->t, n.s);
}

void svg_axes(const struct svg_plot *p, const char *x_label, const char *y_label, int x_ticks, int y_ticks)
{
	double ticks[SVG_TICKS_MAX], right = p->width - p->right, bottom = p->height - p->bottom;
	int digits, count = svg_ticks(&p->y, y_ticks, ticks, &digits);

	for (int i = 0; i < count; i++) {
		double y = svg_y(p, ticks[i]);

		text_f(p->t, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/><text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">", p->left,
		       y, right, p->left - 4, y + 3.5);
		tick_text(p, &p->y, ticks[i], digits);
		text_add(p->t, "</text>");
	}
	count = x_ticks > 0 ? svg_ticks(&p->x, x_ticks, ticks, &digits) : 0;
	for (int i = 0; i < count; i++) {
		double x = svg_x(p, ticks[i]);

		text_f(p->t, "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/><text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">", x,
		       p->top, bottom, x, bottom + 13);
		tick_text(p, &p->x, ticks[i], digits);
		text_add(p->t, "</text>");
	}
	text_f(p->t, "<path class=\"axis\" d=\"M%.1f %.1fV%.1fH%.1f\"/>", p->left, p->top, bottom, right);
	if (x_label != NULL) {
		text_f(p->t, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">", (p->left + right) / 2, p->height - 3);
		text_html(p->t, x_label);
		text_add(p->t, "</text>");
	}
	if (y_label != NULL) {
		text_f(p->t, "<text class=\"label\" transform=\"translate(10 %.1f) rotate(-90)\" text-anchor=\"middle\">", (p->top + bottom) / 2);
		text_html(p->t, y_label);
		text_add(p->t, "</text>");
	}
}

static bool is_point(const double *x, const double *y, int i)
{
	return isfinite(x[i]) && isfinite(y[i]);
}

static int count_points(const double *x, const double *y, int count)
{
	int points = 0;

	for (int i = 0; i < count; i++)
		points += is_point(x, y, i);
	return points;
}

void svg_dots(const struct svg_plot *p, const double *x, const double *y, int count, double radius, const char *classes)
{
	for (int i = 0; i < count; i++)
		if (is_point(x, y, i))
			text_f(p->t, "<circle class=\"dot %s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/>", classes, svg_x(p, x[i]), svg_y(p, y[i]), radius);
}

void svg_line(const struct svg_plot *p, const double *x, const double *y, int count, const char *classes)
{
	int points = count_points(x, y, count);

	/* A line of no length would be a speck of the axis. */
	if (points < 2) {
		svg_dots(p, x, y, count, 3.5, classes);
		return;
	}
	text_f(p->t, "<path class=\"line %s\" d=\"", classes);
	points = 0;
	for (int i = 0; i < count; i++)
		if (is_point(x, y, i))
			text_f(p->t, "%s%.1f %.1f", points++ > 0 ? "L" : "M", svg_x(p, x[i]), svg_y(p, y[i]));
	text_add(p->t, "\"/>");
}

static double half_at(const double *half, int i)
{
	return isfinite(half[i]) ? half[i] : 0;
}

void svg_band(const struct svg_plot *p, const double *x, const double *y, const double *half, int count, const char *classes)
{
	int points = count_points(x, y, count);
	const bool alone = points == 1;

	if (points == 0)
		return;
	text_f(p->t, "<path class=\"%s %s\" d=\"", alone ? "whisker thin" : "band", classes);
	points = 0;
	for (int i = 0; i < count; i++)
		if (is_point(x, y, i))
			text_f(p->t, "%s%.1f %.1f", points++ > 0 ? "L" : "M", svg_x(p, x[i]), svg_y(p, y[i] + half_at(half, i)));
	for (int i = count - 1; i >= 0; i--)
		if (is_point(x, y, i))
			text_f(p->t, "L%.1f %.1f", svg_x(p, x[i]), svg_y(p, y[i] - half_at(half, i)));
	text_add(p->t, alone ? "\"/>" : "Z\"/>");
}

void svg_mark(const struct svg_plot *p, double x, double y, int shape, double size, const char *classes)
{
	double cx = svg_x(p, x), cy = svg_y(p, y), s = size;

	switch (shape % 6) {
	case 0:
		text_f(p->t, "<circle class=\"mark %s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/>", classes, cx, cy, s);
		return;
	case 1:
		text_f(p->t, "<path class=\"mark %s\" d=\"M%.1f %.1fh%.1fv%.1fh-%.1fZ\"/>", classes, cx - s, cy - s, 2 * s, 2 * s, 2 * s);
		return;
	case 2:
		text_f(p->t, "<path class=\"mark %s\" d=\"M%.1f %.1fl%.1f %.1fh-%.1fZ\"/>", classes, cx, cy - 1.2 * s, 1.2 * s, 2.2 * s, 2.4 * s);
		return;
	case 3:
		text_f(p->t, "<path class=\"mark %s\" d=\"M%.1f %.1fl%.1f -%.1fh-%.1fZ\"/>", classes, cx, cy + 1.2 * s, 1.2 * s, 2.2 * s, 2.4 * s);
		return;
	case 4:
		text_f(p->t, "<path class=\"mark %s\" d=\"M%.1f %.1fl%.1f %.1fl-%.1f %.1fl-%.1f -%.1fZ\"/>", classes, cx, cy - 1.3 * s, 1.3 * s, 1.3 * s,
		       1.3 * s, 1.3 * s, 1.3 * s, 1.3 * s);
		return;
	default:
		text_f(p->t, "<path class=\"cross %s\" d=\"M%.1f %.1fl%.1f %.1fm0 -%.1fl-%.1f %.1f\"/>", classes, cx - s, cy - s, 2 * s, 2 * s, 2 * s,
		       2 * s, 2 * s);
	}
}
