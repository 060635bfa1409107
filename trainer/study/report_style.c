/* The style sheet and frame of report.html. */
#include "trainer/study/report_page.h"

/* After Okabe and Ito (2008), those first that differ most, also for color-blind readers; on white orange and purple are darker than
 * theirs, and yellow is left out, which nobody can read there. */
static const char style[] =
	":root{--bg:#fff;--fg:#1c2126;--soft:#f4f6f8;--line:#d7dde3;--muted:#56616c;--good:#0072b2;--bad:#c44e00;--flat:#6b7680;"
	"--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#aa3377;--c4:#d9a000;--c5:#2b3036;--c6:#56b4e9;--c7:#d98cb3;--gray:#9aa4ae;--shade:#0003}\n"
	"@media screen and (prefers-color-scheme:dark){:root{--bg:#14181c;--fg:#e6eaee;--soft:#1d2329;--line:#38424c;--muted:#a3afba;--good:#56b4e9;"
	"--bad:#ff9248;--flat:#98a4b0;--c0:#56b4e9;--c1:#f0702a;--c2:#1fb88a;--c3:#e08fc0;--c4:#f0e442;--c5:#f2f4f6;--c6:#3f72d8;--c7:#b8558f;"
	"--gray:#707c88;--shade:#fff4}}\n"
	"*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}\n"
	"body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif}\n"
	"main{max-width:1140px;margin:0 auto;padding:1.5rem 1.25rem 4rem}\n"
	"h1{font-size:1.05rem;font-weight:600;color:var(--muted);margin:0}\n"
	".headline{font-size:1.6rem;line-height:1.25;font-weight:650;margin:.2rem 0 .5rem;max-width:46rem}\n"
	"h2{font-size:1.2rem;margin:2.8rem 0 .4rem;padding-top:.8rem;border-top:1px solid var(--line)}h3{font-size:1rem;margin:1.4rem 0 .3rem}\n"
	"p{margin:.4rem 0 .7rem;max-width:50rem}.muted,figcaption{color:var(--muted);font-size:.875rem}.meta{color:var(--muted);font-size:.875rem}\n"
	"a{color:var(--good)}code,.mono{font-family:ui-monospace,\"DejaVu Sans Mono\",Menlo,monospace;font-size:.84em;overflow-wrap:anywhere}\n"
	".warn{border-left:4px solid var(--bad);background:var(--soft);padding:.6rem .9rem;margin:.8rem 0;max-width:none}\n"
	/* The answer: one row an arm, the forest plot its last column. */
	".answer{margin:1rem 0 .3rem;display:grid;grid-template-columns:max-content minmax(0,1fr) minmax(260px,36%);column-gap:1.1rem}\n"
	".answer>.row{display:contents}.answer .row>*{padding:.42rem 0;border-top:1px solid var(--line);align-self:stretch}\n"
	".answer .arm{max-width:15rem;overflow-wrap:break-word}.arm b{display:block}.pill{font-size:.8rem;font-weight:600;white-space:nowrap}\n"
	".better{color:var(--good)}.worse{color:var(--bad)}.unclear,.none,.identical{color:var(--flat)}.pill::before{display:inline-block;width:1.1em}\n"
	".pill.better::before{content:\"\\25B2\"}.pill.worse::before{content:\"\\25BC\"}.pill.unclear::before{content:\"\\25CB\"}"
	".pill.identical::before{content:\"=\"}.pill.none::before{content:\"\\2013\"}\n"
	".say{font-size:.9rem;line-height:1.38}.plot{display:flex;align-items:center;overflow:hidden}.axisrow .plot{overflow:visible}"
	".plot svg{height:34px;width:100%}.axisrow>*{border-top:1px solid var(--fg)!important;padding-top:0!important}.axisrow svg{height:36px}\n"
	"svg{display:block;width:100%;height:auto;font:11px system-ui,\"DejaVu Sans\",sans-serif;fill:var(--fg);overflow:visible}\n"
	"svg .grid{stroke:var(--line);stroke-width:.6;fill:none}svg .axis{stroke:var(--muted);stroke-width:.8;fill:none}svg "
	".tick{fill:var(--muted);font-size:10px}"
	"svg .label{fill:var(--muted);font-size:11px}svg .zero{stroke:var(--fg);stroke-width:1;stroke-dasharray:3 "
	"2;fill:none}\n"
	"svg .null{stroke:var(--muted);stroke-width:1;fill:none}svg .halo{font-size:10.5px;paint-order:stroke;stroke:var(--bg);stroke-width:3px}svg "
	".line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}svg .dash{stroke-dasharray:4 3;stroke-width:1.3}"
	"svg .band{fill:currentColor;opacity:.16;stroke:none}svg .mark{fill:currentColor;stroke:var(--bg);stroke-width:.8}svg .cross{stroke:currentColor;"
	"stroke-width:2;fill:none}svg .whisker{stroke:currentColor;stroke-width:2.4;fill:none}svg .thin{stroke-width:1}svg .thick{stroke-width:5;opacity:.55}"
	"svg .dot{fill:currentColor}svg .leader{stroke:var(--muted);stroke-width:.7;fill:none;opacity:.7}svg "
	".open{fill:var(--bg);stroke:currentColor;"
	"stroke-width:1.6}svg .basel{color:var(--gray)}\n"
	".s0{color:var(--c0)}.s1{color:var(--c1)}.s2{color:var(--c2)}.s3{color:var(--c3)}.s4{color:var(--c4)}.s5{color:var(--c5)}.s6{color:var(--c6)}"
	".s7{color:var(--c7)}\n"
	"svg .d1{stroke-dasharray:6 3}svg .d2{stroke-dasharray:2 2.5}svg .d3{stroke-dasharray:8 3 2 3}\n"
	".small{display:grid;grid-template-columns:repeat(auto-fill,minmax(205px,1fr));gap:.9rem 1.1rem;margin:.6rem 0}figure{margin:.6rem 0}.small "
	"figure{margin:0;display:flex;flex-direction:column;justify-content:flex-end}.small svg .tick,.small svg .label{font-size:12px}"
	"figcaption{margin:.4rem 0 0}figcaption.name{margin:0 0 .2rem;font-size:.8rem;font-weight:600;line-height:1.25;color:var(--fg);"
	"overflow-wrap:anywhere}figcaption .sub{font-weight:400}\n"
	".two{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:1rem 1.6rem}.two>figure{margin:0}\n"
	/* A shade at an edge behind which there is more: what covers it scrolls along with the table. */
	".scroll{overflow-x:auto;margin:.6rem 0;background:linear-gradient(to right,var(--bg) 40%,transparent) 0 0/3rem 100% no-repeat local,"
	"linear-gradient(to left,var(--bg) 40%,transparent) 100% 0/3rem 100% no-repeat local,"
	"linear-gradient(to right,var(--shade),transparent) 0 0/1.1rem 100% no-repeat scroll,"
	"linear-gradient(to left,var(--shade),transparent) 100% 0/1.1rem 100% no-repeat scroll}"
	"table{border-collapse:collapse;font-size:.83rem;font-variant-numeric:tabular-nums}"
	"th,td{padding:.3rem .42rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}"
	"th{font-weight:600;color:var(--muted);vertical-align:bottom}td:first-child,th:first-child{text-align:left;padding-left:0}td:first-child "
	"b{display:inline-block;max-width:13rem;white-space:normal;"
	"overflow-wrap:break-word}th{max-width:13rem;overflow-wrap:break-word}"
	"td.l,th.l{text-align:left}td.wrap{white-space:normal;min-width:14rem;text-align:left;overflow-wrap:anywhere}.sub{color:var(--muted);font-size:.9em;"
	"display:block}\n"
	"table.full{width:100%}tbody "
	"tr:hover{background:var(--soft)}.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(215px,1fr));gap:.9rem;margin:.5rem 0 1rem}\n"
	".card{border:1px solid var(--line);border-radius:6px;overflow:hidden;font-size:.84rem;break-inside:avoid;background:var(--bg)}"
	".card img{display:block;width:100%;aspect-ratio:1;object-fit:cover;background:var(--soft)}.card div{padding:.45rem .6rem .55rem}"
	".card q{display:block;overflow-wrap:anywhere;font-style:italic}.card .truth{color:var(--muted)}.card ul{margin:.35rem 0 0;padding:0;list-style:none;"
	"display:flex;flex-wrap:wrap;gap:.1rem .5rem;font-size:.76rem;color:var(--muted)}.card li.x{color:var(--bad)}\n"
	"ul.key{overflow-wrap:anywhere;list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1rem;padding:0;margin:.3rem 0;font-size:.84rem}ul.key "
	"svg{display:inline-block;width:30px;"
	"height:12px;vertical-align:middle;margin-right:.3rem}\n"
	"details{margin:.5rem 0}summary{cursor:pointer;font-weight:600}pre{background:var(--soft);padding:.7rem "
	".9rem;overflow-x:auto;font-size:.8rem;border-radius:6px;"
	"white-space:pre-wrap;overflow-wrap:anywhere}dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem "
	"1rem;font-size:.88rem}dt{color:var(--muted)}dd{margin:0;"
	"overflow-wrap:anywhere}\n"
	"nav{font-size:.84rem;margin:1.1rem 0 0;display:flex;flex-wrap:wrap;gap:.1rem .9rem}\n"
	"@media screen and (max-width:760px){main{padding:1rem .9rem "
	"3rem}.headline{font-size:1.28rem}.answer{display:block}.answer>.row{display:block;border-top:1px solid var(--line);"
	"padding:.55rem 0}.answer .row>*{border:0!important;padding:.1rem 0}.answer .arm{max-width:none}.arm b{display:inline;margin-right:.5rem}"
	".axisrow>:not(.plot){display:none}.plot "
	"svg{overflow:hidden}.two{grid-template-columns:1fr}.small{grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:.7rem}"
	".small svg .tick,.small svg .label{font-size:13.5px}.wide svg .tick,.wide svg .label,.wide svg .halo{font-size:12px}"
	".cards{grid-template-columns:repeat(2,1fr);gap:.6rem}table.tall{display:block}dl{display:block}dt{margin-top:.4rem}}\n"
	"@media "
	"print{@page{size:A4;margin:14mm}body{font-size:10.5pt}main{max-width:none;padding:0}nav{display:none}.scroll{overflow:visible;background:none}"
	"table{font-size:7.2pt}"
	"th,td{padding:.18rem .3rem}h2,h3{break-after:avoid}h2{margin-top:1.4rem}.plot svg{overflow:hidden}figure,tr,.row{break-inside:avoid}"
	"details::details-content{display:block;content-visibility:visible;height:auto}"
	".small{grid-template-columns:repeat(4,1fr);gap:.6rem}.cards{grid-template-columns:repeat(5,1fr);gap:.4rem}.card{font-size:7pt}"
	".answer{grid-template-columns:max-content 1fr 34%}"
	".headline{font-size:15pt}.say{font-size:8.6pt}.two{grid-template-columns:repeat(3,1fr);gap:.5rem .8rem;align-items:end}"
	".two svg .tick,.two svg .label{font-size:14px}.two figcaption{font-size:8pt}}\n";

void page_begin(struct text *t, const char *title)
{
	text_add(t, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
		    "<meta name=\"color-scheme\" content=\"light dark\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
		    "img-src data:; style-src 'unsafe-inline'\"><title>");
	text_html(t, title);
	text_add(t, "</title>\n<style>\n");
	text_add(t, style);
	text_add(t, "</style></head>\n<body><main>\n");
}

void page_end(struct text *t)
{
	text_add(t, "</main></body></html>\n");
}

void page_section(struct text *t, const char *id, const char *heading)
{
	text_f(t, "<h2 id=\"%s\">", id);
	text_html(t, heading);
	text_add(t, "</h2>\n");
}
